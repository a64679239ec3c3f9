//! What a chapter works with: a database that can be opened and reopened, and pens that write the rows of a stream.

use super::postgres::Postgres;
use std::sync::Arc;
use tempfile::TempDir;
use tidegate::config::{Config, RawConfig};
use tidegate::store::{self, Opened, SampleQuery, Store, StoreError, StoredSample, StoredStream};
use tidegate::stream::{
    Flags, Marks, Numbering, RefusalRow, Row, SampleRow, Snapshot, StreamKey, StreamRef,
    VersionRef, What,
};
use tidegate_protocol::message::Label;
use tidegate_protocol::{DeviceId, EndpointName, NackCode, Output};

/// The endpoint of every stream that does not say otherwise.
pub const ENDPOINT: &str = "pump-health";
/// Measured time of reading 0, Unix ms; readings follow each other by a second.
pub const START_MS: i64 = 1_770_000_000_000;
/// Arrival of every row.
const ARRIVED_MS: i64 = 1_770_000_500_000;

/// A database.
pub enum Place {
    Sqlite(TempDir),
    Postgres(Postgres),
}

impl Place {
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().expect("a temporary folder"))
    }

    /// The configuration of a server on it.
    pub fn config(&self) -> Config {
        let mut raw = RawConfig::default();
        // So small that PostgreSQL begins a part every thousand samples.
        raw.store.max_bytes = 1_000_000;
        match self {
            Self::Sqlite(dir) => raw.data_dir = dir.path().to_owned(),
            Self::Postgres(postgres) => raw.store.url = Some(postgres.url().into()),
        }
        raw.check().expect("the configuration is valid")
    }

    /// Why it cannot be opened now: one line.
    pub async fn refusal(&self) -> String {
        let refused = store::open(&self.config()).await;
        let text = refused.err().expect("it is refused").to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }

    /// Runs a statement behind the store's back.
    pub async fn tamper(&self, sql: &'static str) {
        match self {
            Self::Postgres(postgres) => drop(postgres.psql(sql).await),
            Self::Sqlite(dir) => {
                use sqlx::Connection;
                let url = format!("sqlite:{}", dir.path().join("tidegate.db").display());
                let mut connection = sqlx::SqliteConnection::connect(&url).await.expect("a file");
                let done = sqlx::raw_sql(sql).execute(&mut connection).await;
                done.expect("a statement");
            }
        }
    }
}

/// An open store, and the ids given so far.
pub struct Book {
    pub place: Place,
    opened: Option<Opened>,
    next_id: u64,
    next_stream: i64,
    pub version: Arc<VersionRef>,
}

impl Book {
    pub async fn open(place: Place) -> Self {
        let opened = store::open(&place.config()).await.expect("it opens");
        let endpoint = EndpointName::new(ENDPOINT).expect("a name");
        let id = opened
            .store
            .register_version(&endpoint, "mewma", "1.0.0", &[7; 32])
            .await
            .expect("a version");
        let version = VersionRef {
            id,
            endpoint,
            model: "mewma".into(),
            version: "1.0.0".into(),
        };
        Self {
            place,
            opened: Some(opened),
            next_id: 1,
            next_stream: 1,
            version: Arc::new(version),
        }
    }

    pub fn store(&self) -> &dyn Store {
        let opened = self.opened.as_ref().expect("it is open");
        opened.store.as_ref()
    }

    pub async fn close(&mut self) {
        let opened = self.opened.take().expect("it is open");
        opened.store.close().await;
    }

    pub async fn open_again(&mut self) {
        assert!(self.opened.is_none(), "closed before");
        let opened = store::open(&self.place.config()).await;
        self.opened = Some(opened.expect("it opens again"));
    }

    /// A pen for the live stream of a device that is new.
    pub fn pen(&mut self, device: &str) -> Pen {
        self.pen_at(ENDPOINT, device, 0)
    }

    /// The same at an endpoint, for an import where that is not 0.
    pub fn pen_at(&mut self, endpoint: &str, device: &str, import: u64) -> Pen {
        let key = StreamKey {
            endpoint: EndpointName::new(endpoint).expect("a name"),
            device: DeviceId::new(device).expect("a name"),
            import,
        };
        let id = self.next_stream;
        self.next_stream += 1;
        Pen {
            stream: Arc::new(StreamRef { id, key }),
            marks: Marks {
                epoch: import,
                ..Marks::default()
            },
            version: Arc::clone(&self.version),
        }
    }

    /// Commits rows after giving them ids, as the writer does.
    pub async fn commit(&mut self, rows: &mut [Row]) -> Result<(), StoreError> {
        for row in rows.iter_mut() {
            if matches!(row.what, What::Sample(_)) {
                self.next_id += 1;
            }
            row.id = self.next_id - 1;
        }
        let rows: Vec<&Row> = rows.iter().collect();
        self.store().commit(&rows).await
    }

    /// Commits what must be taken.
    pub async fn write(&mut self, mut rows: Vec<Row>) {
        self.commit(&mut rows).await.expect("a commit");
    }

    /// A stream that is there.
    pub async fn load(&self, pen: &Pen) -> StoredStream {
        let loaded = self.store().load_stream(&pen.stream.key).await;
        loaded.expect("a read").expect("it is stored")
    }

    pub async fn samples(&self, query: SampleQuery) -> Vec<StoredSample> {
        let found = self.store().samples(&query).await.expect("a read");
        let count = self.store().count_samples(&query).await;
        assert_eq!(count.expect("a count") as usize, found.len(), "{query:?}");
        found
    }

    /// Every sample of a device, oldest first.
    pub async fn samples_of(&self, device: &str) -> Vec<StoredSample> {
        self.samples(SampleQuery {
            device: Some(device.into()),
            limit: 10_000,
            ..SampleQuery::default()
        })
        .await
    }

    /// Where a stream stands; 0 when it is not stored.
    pub async fn position(&self, pen: &Pen) -> u64 {
        let found = self.store().positions(&[pen.stream.id]).await;
        let found = found.expect("positions");
        found.first().map_or(0, |(_, pos)| *pos)
    }
}

/// Writes the rows of one stream, each behind the one before.
#[derive(Clone)]
pub struct Pen {
    pub stream: Arc<StreamRef>,
    pub marks: Marks,
    version: Arc<VersionRef>,
}

/// The values of reading `seq`, with bits that a careless store would lose.
pub fn values(seq: u64) -> Box<[f32]> {
    [
        seq as f32,
        -0.0,
        f32::MIN_POSITIVE / 2.0,
        f32::from_bits(0x7fc0_1234),
    ]
    .into()
}

/// The output of reading `seq`.
pub fn output(seq: u64) -> Output {
    Output::Anomaly {
        score: seq as f32 / 3.0,
        threshold: 0.1,
        anomaly: seq.is_multiple_of(2),
    }
}

impl Pen {
    fn row(&mut self, what: What) -> Row {
        self.marks.pos += 1;
        Row {
            id: 0,
            stream: Arc::clone(&self.stream),
            after: self.marks,
            what,
            gaps: None,
            snapshot: None,
            mark: None,
        }
    }

    /// The first row of a new stream.
    pub fn opened(&mut self) -> Row {
        let what = What::Switch {
            version: Arc::clone(&self.version),
            reason: "opened",
            warm_from: None,
            arm: None,
        };
        let row = self.row(what);
        self.with_snapshot(row)
    }

    /// A reading that was taken and folded.
    pub fn reading(&mut self, seq: u64) -> Row {
        let at = START_MS + i64::try_from(seq).expect("a small number") * 1_000;
        self.marks.high_water = Some(seq);
        self.marks.numbering = Numbering::Device;
        self.marks.last_ts = Some(at);
        self.sample(seq, at, output(seq), Flags::TS_SENT)
    }

    /// A reading that fell into a gap.
    pub fn late(&mut self, seq: u64) -> Row {
        let skipped = Output::Skipped("late".into());
        self.sample(seq, START_MS, skipped, Flags::LATE)
    }

    /// A reading whose step failed.
    pub fn failed(&mut self, seq: u64) -> Row {
        self.marks.high_water = Some(seq);
        let failed = Output::Failed("the step panicked".into());
        self.sample(seq, START_MS, failed, Flags::TS_SENT)
    }

    /// Readings `from..to`.
    pub fn readings(&mut self, from: u64, to: u64) -> Vec<Row> {
        (from..to).map(|seq| self.reading(seq)).collect()
    }

    fn sample(&mut self, seq: u64, ts: i64, output: Output, flags: Flags) -> Row {
        let sample = SampleRow {
            stream: Arc::clone(&self.stream),
            pos: self.marks.pos + 1,
            epoch: self.marks.epoch,
            seq,
            ts,
            received_at: ARRIVED_MS,
            values: values(seq),
            output,
            version: Arc::clone(&self.version),
            arm: None,
            latency_us: u32::MAX,
            flags,
            numerics_rev: 1,
        };
        self.row(What::Sample(Arc::new(sample)))
    }

    pub fn refusal(&mut self, seq: Option<u64>, code: NackCode, message: &str) -> Row {
        let consumed = seq.is_some();
        if consumed {
            self.marks.high_water = seq;
        }
        let refusal = RefusalRow {
            epoch: self.marks.epoch,
            seq,
            code,
            message: message.into(),
            consumed,
            at: ARRIVED_MS,
        };
        self.row(What::Refusal(Arc::new(refusal)))
    }

    pub fn epoch(&mut self, epoch: u64) -> Row {
        self.marks.epoch = epoch;
        self.marks.high_water = None;
        self.marks.numbering = Numbering::Open;
        Row {
            gaps: Some(Vec::new()),
            ..self.row(What::Epoch)
        }
    }

    pub fn reset(&mut self) -> Row {
        let reason = "asked by the device";
        let row = self.row(What::Reset { reason });
        self.with_snapshot(row)
    }

    pub fn feedback(&mut self, seq: u64, label: Label) -> Row {
        let epoch = self.marks.epoch;
        self.row(What::Feedback { epoch, seq, label })
    }

    /// The row with a snapshot behind it; its state tells the position.
    pub fn with_snapshot(&self, row: Row) -> Row {
        let snapshot = Snapshot {
            version: Arc::clone(&self.version),
            layout: "mean:2".into(),
            numerics_rev: 1,
            last_ts: self.marks.last_ts,
            state: [row.after.pos as f32, f32::from_bits(0x7fc0_0001)].into(),
        };
        Row {
            snapshot: Some(snapshot),
            ..row
        }
    }
}
