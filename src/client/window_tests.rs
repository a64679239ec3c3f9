//! The window against a small model of the server: any order of deliveries, cuts, crashes and losses.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use tidegate_protocol::{Output, ServerMessage, Values};

fn reading(seq: u64) -> Reading {
    Reading {
        seq: Some(seq),
        ts: Some(seq as i64),
        values: Values::Ordered(vec![seq as f32]),
        ..Reading::default()
    }
}

fn prediction(seq: u64) -> Prediction {
    Prediction {
        epoch: None,
        seq,
        ts: 0,
        model: "m".into(),
        version: "1.0.0".into(),
        output: Output::Anomaly {
            score: 1.0,
            threshold: 2.0,
            anomaly: false,
        },
        latency_us: 1,
    }
}

fn late_prediction(seq: u64) -> Prediction {
    Prediction {
        output: Output::Skipped("late".into()),
        ..prediction(seq)
    }
}

fn ack(seq: u64, late: &[u64]) -> Ack {
    Ack {
        epoch: None,
        seq,
        late: late.to_vec(),
    }
}

fn nack(seq: u64, code: NackCode) -> Nack {
    Nack {
        epoch: None,
        seq: Some(seq),
        code,
        message: String::new(),
    }
}

fn limits(unsettled: usize, in_flight: usize) -> Limits {
    Limits {
        unsettled,
        in_flight,
    }
}

fn send_all(window: &mut Window) -> Vec<u64> {
    let now = Instant::now();
    std::iter::from_fn(|| window.next_to_send(now).and_then(|reading| reading.seq)).collect()
}

#[test]
fn a_new_stream_sends_at_once_and_settles_when_predicted_and_acked() {
    let mut window = Window::new(limits(8, 8));
    window.connected(Some(0));
    (0..3).for_each(|seq| window.offer(reading(seq)));
    assert_eq!(send_all(&mut window), [0, 1, 2]);
    window.on_ack(&ack(1, &[]));
    assert_eq!(
        window.len(),
        3,
        "acked, but their predictions are still owed"
    );
    (0..3).for_each(|seq| assert!(window.on_prediction(&prediction(seq), Instant::now())));
    assert_eq!(window.len(), 1);
    window.on_ack(&ack(2, &[]));
    assert!(window.is_settled());
    let tally = window.tally();
    assert_eq!(
        (tally.sent, tally.predicted, tally.acked, tally.resent),
        (3, 3, 3, 0)
    );
}

#[test]
fn no_more_than_the_limit_is_unanswered() {
    let mut window = Window::new(limits(8, 2));
    window.connected(Some(0));
    (0..8).for_each(|seq| window.offer(reading(seq)));
    assert!(!window.has_room());
    assert_eq!(send_all(&mut window), [0, 1]);
    window.on_prediction(&prediction(0), Instant::now());
    assert_eq!(send_all(&mut window), [2]);
}

#[test]
fn a_cut_sends_the_unsettled_again_and_nothing_else() {
    let mut window = Window::new(limits(8, 8));
    window.connected(Some(0));
    (0..4).for_each(|seq| window.offer(reading(seq)));
    send_all(&mut window);
    window.on_prediction(&prediction(0), Instant::now());
    window.on_prediction(&prediction(1), Instant::now());
    window.on_ack(&ack(0, &[]));
    window.connected(Some(3));
    assert_eq!(
        send_all(&mut window),
        [2, 3],
        "1 was predicted and lies below resume_from"
    );
    assert_eq!(window.tally().acked, 2);
    assert_eq!(window.tally().resent, 2);
}

#[test]
fn a_nack_lost_in_a_cut_is_learned_by_asking_again() {
    let mut window = Window::new(limits(8, 8));
    window.connected(Some(0));
    (0..3).for_each(|seq| window.offer(reading(seq)));
    send_all(&mut window);
    window.connected(Some(3));
    send_all(&mut window);
    window.on_prediction(&prediction(0), Instant::now());
    window.on_ack(&ack(2, &[]));
    window.on_nack(&nack(1, NackCode::BadReading));
    window.on_prediction(&prediction(2), Instant::now());
    assert!(window.is_settled());
    assert_eq!(
        (window.tally().acked, window.tally().nacked_total()),
        (2, 1)
    );
}

#[test]
fn what_a_welcome_says_is_stored_is_probed_before_anything_new_goes() {
    let mut window = Window::new(limits(8, 8));
    window.connected(Some(10));
    window.stored_before(10, vec![reading(0), reading(9)]);
    window.offer(reading(10));
    assert_eq!(send_all(&mut window), [0, 9]);
    window.on_prediction(&prediction(0), Instant::now());
    assert_eq!(send_all(&mut window), [] as [u64; 0]);
    window.on_prediction(&prediction(9), Instant::now());
    assert_eq!(send_all(&mut window), [10]);
    let tally = window.tally();
    assert_eq!(
        (tally.already_stored, tally.sent, tally.predicted),
        (10, 1, 0)
    );
}

#[test]
fn a_window_that_resends_asks_for_every_reading_though_the_server_holds_it() {
    let mut window = Window::new(limits(8, 8)).resending(true);
    window.connected(Some(3));
    (0..5).for_each(|seq| window.offer(reading(seq)));
    assert_eq!(send_all(&mut window), [0], "the probe goes first");
    window.on_prediction(&prediction(0), Instant::now());
    window.on_ack(&ack(2, &[]));
    assert_eq!(send_all(&mut window), [1, 2, 3, 4]);
    assert!(window.on_nack(&nack(1, NackCode::OutOfRange)));
    assert!(!window.on_nack(&nack(1, NackCode::OutOfRange)), "no news");
    for seq in [2, 3, 4] {
        window.on_prediction(&prediction(seq), Instant::now());
    }
    window.on_ack(&ack(4, &[]));
    assert!(window.is_settled());
    let tally = window.tally();
    assert_eq!((tally.settled(), tally.nacked_total()), (5, 1));
}

#[test]
fn other_readings_under_the_same_numbers_are_a_conflict() {
    let mut window = Window::new(limits(8, 8));
    window.connected(Some(10));
    window.stored_before(10, vec![reading(0), reading(9)]);
    send_all(&mut window);
    window.on_nack(&nack(0, NackCode::SeqReused));
    assert_eq!(window.conflict(), Some(0));
    let tally = window.tally();
    let counted = (tally.already_stored, tally.sent, tally.nacked_total());
    assert_eq!(
        counted,
        (0, 1, 1),
        "what was left out is not known to be ours"
    );
}

#[test]
fn readings_that_were_taken_long_ago_are_stored_and_not_sent() {
    let mut window = Window::new(limits(8, 8));
    window.connected(Some(3));
    window.stored_before(3, vec![reading(0), reading(2)]);
    window.offer(reading(3));
    send_all(&mut window);
    window.on_nack(&nack(0, NackCode::AlreadyTaken));
    window.on_nack(&nack(2, NackCode::AlreadyTaken));
    send_all(&mut window);
    // Retention took it, and another connection had stored it meanwhile.
    window.on_nack(&nack(3, NackCode::AlreadyTaken));
    let tally = window.tally();
    let counted = (tally.already_stored, tally.sent, tally.settled());
    assert_eq!(counted, (4, 0, 4));
}

#[test]
fn without_a_welcome_the_first_ack_tells_what_is_stored() {
    let mut window = Window::new(limits(4, 4));
    window.connected(None);
    (0..4).for_each(|seq| window.offer(reading(seq)));
    assert_eq!(send_all(&mut window), [0], "one probe");
    window.on_prediction(&prediction(0), Instant::now());
    window.on_ack(&ack(99, &[]));
    assert!(window.is_settled());
    assert_eq!(window.floor(), 100);
    window.stored_before(96, Vec::new());
    let tally = window.tally();
    assert_eq!(
        (
            tally.already_stored,
            tally.sent,
            tally.predicted,
            tally.acked
        ),
        (100, 0, 0, 0)
    );
}

#[test]
fn a_gap_is_filled_and_acked_by_number() {
    let mut window = Window::new(limits(8, 8));
    window.connected(Some(0));
    (0..3).for_each(|seq| window.offer(reading(seq)));
    send_all(&mut window);
    for seq in [0, 2] {
        window.on_prediction(&prediction(seq), Instant::now());
    }
    window.on_gap(&Gap {
        epoch: None,
        from: 1,
        to: 1,
    });
    window.on_ack(&ack(2, &[]));
    assert_eq!(send_all(&mut window), [1]);
    window.on_prediction(&prediction(1), Instant::now());
    assert!(
        !window.is_settled(),
        "an ack by high-water mark does not cover a gap"
    );
    window.on_ack(&ack(2, &[1]));
    assert!(window.is_settled());
}

/// A gap that a cut swallowed: the reading it named goes out again and is answered as late. An ack by high-water mark that comes
/// before its own says nothing of it; a crash of the server behind that ack lost a reading which the device no longer kept.
#[test]
fn a_reading_answered_as_late_is_settled_by_its_number_alone() {
    let mut window = Window::new(limits(8, 8));
    window.connected(Some(0));
    (0..3).for_each(|seq| window.offer(reading(seq)));
    send_all(&mut window);
    for seq in [0, 2] {
        window.on_prediction(&prediction(seq), Instant::now());
    }
    window.connected(Some(3));
    assert_eq!(send_all(&mut window), [1]);
    window.on_ack(&ack(2, &[]));
    window.on_prediction(&late_prediction(1), Instant::now());
    assert!(!window.is_settled(), "its row is not committed yet");
    window.on_ack(&ack(2, &[1]));
    assert!(window.is_settled());
}

/// What the model server did with a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Stored,
    Late,
    Refused,
}

/// The server's side of the promise, as small as it can be.
#[derive(Debug, Default, Clone)]
struct Server {
    fates: BTreeMap<u64, Fate>,
    high_water: Option<u64>,
    /// The committed part of the above.
    durable: Option<Box<Server>>,
}

impl Server {
    fn take(&mut self, seq: u64, refuses: impl Fn(u64) -> bool, out: &mut VecDeque<ServerMessage>) {
        if let Some(fate) = self.fates.get(&seq) {
            return self.answer_again(seq, *fate, out);
        }
        let behind = self.high_water.is_some_and(|high| seq <= high);
        if !behind {
            self.step_over(seq, out);
        }
        let fate = match (refuses(seq), behind) {
            (true, _) => Fate::Refused,
            (false, true) => Fate::Late,
            (false, false) => Fate::Stored,
        };
        self.fates.insert(seq, fate);
        out.push_back(match fate {
            Fate::Refused => ServerMessage::Nack(nack(seq, NackCode::BadReading)),
            Fate::Late => ServerMessage::Prediction(late_prediction(seq)),
            Fate::Stored => ServerMessage::Prediction(prediction(seq)),
        });
    }

    fn step_over(&mut self, seq: u64, out: &mut VecDeque<ServerMessage>) {
        if let Some(high) = self.high_water.filter(|high| seq > high + 1) {
            out.push_back(ServerMessage::Gap(Gap {
                epoch: None,
                from: high + 1,
                to: seq - 1,
            }));
        }
        self.high_water = Some(seq);
    }

    fn answer_again(&self, seq: u64, fate: Fate, out: &mut VecDeque<ServerMessage>) {
        if fate == Fate::Refused {
            out.push_back(ServerMessage::Nack(nack(seq, NackCode::BadReading)));
            return;
        }
        out.push_back(ServerMessage::Prediction(match fate {
            Fate::Late => late_prediction(seq),
            _ => prediction(seq),
        }));
        let durable = self.durable.as_deref();
        let committed = durable.filter(|durable| durable.fates.contains_key(&seq));
        if let Some(high) = committed.and_then(|durable| durable.high_water) {
            let late = if fate == Fate::Late {
                vec![seq]
            } else {
                Vec::new()
            };
            out.push_back(ServerMessage::Ack(ack(high, &late)));
        }
    }

    fn commit(&mut self, out: &mut VecDeque<ServerMessage>) {
        let before = self
            .durable
            .take()
            .map(|durable| durable.fates)
            .unwrap_or_default();
        let new = self
            .fates
            .iter()
            .filter(|(seq, _)| !before.contains_key(seq));
        let late: Vec<u64> = new
            .filter(|(_, fate)| **fate == Fate::Late)
            .map(|(seq, _)| *seq)
            .collect();
        if let Some(high) = self.high_water {
            out.push_back(ServerMessage::Ack(ack(high, &late)));
        }
        self.durable = Some(Box::new(self.clone()));
    }

    fn crash(&mut self) {
        let durable = self
            .durable
            .take()
            .map(|durable| *durable)
            .unwrap_or_default();
        *self = Server {
            durable: Some(Box::new(durable.clone())),
            ..durable
        };
    }
}

#[derive(Debug, Clone)]
enum Step {
    Offer(usize),
    ToServer(usize),
    Commit,
    ToDevice(usize),
    Cut,
    Crash,
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..6).prop_map(Step::Offer),
        6 => (1usize..6).prop_map(Step::ToServer),
        3 => Just(Step::Commit),
        6 => (1usize..9).prop_map(Step::ToDevice),
        1 => Just(Step::Cut),
        1 => Just(Step::Crash),
        1 => Just(Step::Lose),
    ]
}

/// A device, a server and what is under way between them.
struct World {
    window: Window,
    server: Server,
    up: VecDeque<u64>,
    /// Taken by the server and not committed.
    taken: VecDeque<u64>,
    /// What a broker delivers again after a crash, first and without loss.
    again: VecDeque<u64>,
    down: VecDeque<ServerMessage>,
    next: u64,
    total: u64,
    refuse_every: u64,
    has_welcome: bool,
}

impl World {
    fn new(total: u64, refuse_every: u64, has_welcome: bool, limits: Limits) -> Self {
        let mut world = Self {
            window: Window::new(limits),
            server: Server::default(),
            up: VecDeque::new(),
            taken: VecDeque::new(),
            again: VecDeque::new(),
            down: VecDeque::new(),
            next: 0,
            total,
            refuse_every,
            has_welcome,
        };
        world.cut();
        world
    }

    fn act(&mut self, step: &Step) {
        match step {
            Step::Offer(count) => (0..*count).for_each(|_| self.offer()),
            Step::ToServer(count) => (0..*count).for_each(|_| self.carry_up()),
            Step::Commit => {
                self.taken.clear();
                self.server.commit(&mut self.down);
            }
            Step::ToDevice(count) => (0..*count).for_each(|_| self.carry_down()),
            Step::Cut => self.cut(),
            Step::Crash => self.crash(),
            // Only a broker loses single messages.
            Step::Lose if !self.has_welcome => drop(self.up.pop_front()),
            Step::Lose => {}
        }
        let now = Instant::now();
        while let Some(reading) = self.window.next_to_send(now) {
            self.up.extend(reading.seq);
        }
    }

    fn offer(&mut self) {
        if self.next < self.total && self.window.has_room() {
            self.window.offer(reading(self.next));
            self.next += 1;
        }
    }

    fn carry_up(&mut self) {
        let every = self.refuse_every;
        if let Some(seq) = self.again.pop_front().or_else(|| self.up.pop_front()) {
            self.taken.push_back(seq);
            self.server
                .take(seq, |seq| seq % every == every - 1, &mut self.down);
        }
    }

    fn carry_down(&mut self) {
        match self.down.pop_front() {
            Some(ServerMessage::Prediction(prediction)) => {
                self.window.on_prediction(&prediction, Instant::now());
            }
            Some(ServerMessage::Ack(ack)) => self.window.on_ack(&ack),
            Some(ServerMessage::Nack(nack)) => _ = self.window.on_nack(&nack),
            Some(ServerMessage::Gap(gap)) => self.window.on_gap(&gap),
            _ => {}
        }
    }

    fn cut(&mut self) {
        self.up.clear();
        self.down.clear();
        let durable = self
            .server
            .durable
            .as_ref()
            .and_then(|durable| durable.high_water);
        let resume_from = durable.map_or(0, |high| high + 1);
        self.window
            .connected(self.has_welcome.then_some(resume_from));
    }

    /// Behind a broker a device does not notice: what is under way stays under way, what was not committed comes again.
    fn crash(&mut self) {
        self.server.crash();
        let taken = std::mem::take(&mut self.taken);
        if self.has_welcome {
            self.cut();
        } else {
            self.again = taken.into_iter().chain(self.again.drain(..)).collect();
        }
    }

    /// A broker keeps what the server took and did not commit, so it is as good as stored.
    fn drain_broker(&mut self) {
        self.up.clear();
        while !self.again.is_empty() {
            self.carry_up();
        }
        self.act(&Step::Commit);
    }

    fn finish(&mut self) {
        let calm = [
            Step::Offer(9),
            Step::ToServer(9),
            Step::Commit,
            Step::ToDevice(99),
        ];
        for round in 1..2_000 {
            if self.next == self.total && self.window.is_settled() {
                return;
            }
            calm.iter().for_each(|step| self.act(step));
            // The answer timeout of a real connection.
            if round % 20 == 0 {
                self.act(&Step::Cut);
            }
        }
    }
}

proptest! {
    #[test]
    fn every_reading_ends_acked_or_nacked_whatever_happens(
        steps in prop::collection::vec(step(), 0..120),
        total in 1u64..60,
        refuse_every in 2u64..9,
        has_welcome: bool,
        unsettled in 1usize..12,
        in_flight in 1usize..6,
    ) {
        let mut world = World::new(total, refuse_every, has_welcome, limits(unsettled, in_flight));
        for step in &steps {
            world.act(step);
            prop_assert!(world.window.len() <= unsettled);
            prop_assert!(world.window.flying.len() <= in_flight);
        }
        world.finish();
        let tally = world.window.tally().clone();
        prop_assert!(world.window.is_settled(), "left over: {:?}", world.window);
        prop_assert_eq!(tally.settled(), total);
        if !has_welcome {
            world.drain_broker();
        }
        let durable = world.server.durable.unwrap_or_default();
        let refused = durable.fates.values().filter(|fate| **fate == Fate::Refused).count() as u64;
        let stored = durable.fates.len() as u64 - refused;
        prop_assert_eq!(tally.acked + tally.already_stored, stored, "every ack is of a stored reading, and the reverse");
        prop_assert!(tally.nacked_total() >= refused);
        prop_assert!(tally.predicted <= total);
    }
}
