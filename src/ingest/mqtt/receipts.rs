//! Publishes that were taken and may be delivered again, by packet id. Pure.
//!
//! A broker that did not hear an acknowledgement delivers the publish again, marked as a duplicate, under the same packet id of the same
//! session. Readings with a number are absorbed by it; for others this remembers how much of the publish was taken, and by which session
//! of the stream. Keeps what is not acknowledged, and behind that as many as the broker may leave unacknowledged: acknowledgements leave in
//! arrival order, so it has heard all before them. There are never more of them than packet ids.

use crate::session::SessionCell;
use crate::store::StoredReceipts;
use crate::stream::PublishRef;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Receipts {
    client: Arc<str>,
    session: u64,
    next_place: u64,
    most: usize,
    by_packet: HashMap<u16, Receipt>,
    /// Place and packet id, oldest first.
    order: VecDeque<(u64, u16)>,
    /// The broker may still deliver again what an earlier run took: it does so before anything new.
    redelivering: bool,
}

#[derive(Debug)]
struct Receipt {
    publish: Arc<PublishRef>,
    taken: u32,
    /// Its number in the window; `None` for one that an earlier run took.
    number: Option<u64>,
    /// The session that took it last; `None` where `taken` is what the store says.
    taker: Option<Arc<SessionCell>>,
    acknowledged: bool,
}

/// A publish as it is known when it comes.
#[derive(Debug)]
pub struct Opened {
    /// What its rows are marked with.
    pub publish: Arc<PublishRef>,
    /// How many of its messages were taken before.
    pub taken: u32,
    /// By whom; `None` where `taken` is what the store says.
    pub taker: Option<Arc<SessionCell>>,
}

impl Receipts {
    /// None yet, of `client`; the broker leaves `most` publishes unacknowledged.
    pub fn new(client: &str, most: u16) -> Self {
        Self {
            client: client.into(),
            session: 0,
            next_place: 0,
            most: most.into(),
            by_packet: HashMap::new(),
            order: VecDeque::new(),
            redelivering: true,
        }
    }

    /// This server's name at the broker, as the store keeps it.
    pub fn client(&self) -> &Arc<str> {
        &self.client
    }

    /// Goes on with what an earlier run stored.
    pub fn load(&mut self, stored: StoredReceipts) {
        self.session = stored.session;
        for mark in stored.marks {
            self.next_place = mark.publish.place + 1;
            if mark.publish.session == stored.session {
                self.remember(Receipt {
                    publish: mark.publish,
                    taken: mark.taken,
                    number: None,
                    taker: None,
                    acknowledged: false,
                });
            }
        }
    }

    /// The broker began another session: what is known belongs to none of its publishes.
    pub fn renew(&mut self, session: u64) {
        self.session = session;
        self.by_packet.clear();
        self.order.clear();
    }

    /// The publish to mark rows with, and how far it was taken before. `number` is its place in the window.
    pub fn open(&mut self, packet: u16, hash: [u8; 32], duplicate: bool, number: u64) -> Opened {
        if let Some(known) = self.by_packet.get_mut(&packet)
            && duplicate
            && known.publish.hash == hash
        {
            known.number = Some(number);
            known.acknowledged = false;
            return Opened {
                publish: Arc::clone(&known.publish),
                taken: known.taken,
                taker: known.taker.clone(),
            };
        }
        self.redelivering &= duplicate;
        // The packet id names this publish from now on.
        self.by_packet.remove(&packet);
        self.make_room();
        let publish = Arc::new(PublishRef {
            client: Arc::clone(&self.client),
            session: self.session,
            place: self.next_place,
            keep_from: self
                .order
                .front()
                .map_or(self.next_place, |(place, _)| *place),
            packet,
            hash,
        });
        self.next_place += 1;
        self.remember(Receipt {
            publish: Arc::clone(&publish),
            taken: 0,
            number: Some(number),
            taker: None,
            acknowledged: false,
        });
        Opened {
            publish,
            taken: 0,
            taker: None,
        }
    }

    /// `taker` has so many messages of the publish on their way to the store.
    pub fn taken(&mut self, publish: &PublishRef, taken: u32, taker: &Arc<SessionCell>) {
        if let Some(known) = self.find(publish) {
            known.taken = known.taken.max(taken);
            known.taker = Some(Arc::clone(taker));
        }
    }

    /// So many messages of the publish are stored, and no more of them will be.
    pub fn stored(&mut self, publish: &PublishRef, taken: u32) {
        if let Some(known) = self.find(publish) {
            known.taken = taken;
            known.taker = None;
        }
    }

    /// The publish that came under `packet` as `number` is acknowledged.
    pub fn acknowledged(&mut self, packet: u16, number: u64) {
        if let Some(known) = self.by_packet.get_mut(&packet)
            && known.number == Some(number)
        {
            known.acknowledged = true;
        }
    }

    fn find(&mut self, publish: &PublishRef) -> Option<&mut Receipt> {
        let known = self.by_packet.get_mut(&publish.packet)?;
        (known.publish.place == publish.place).then_some(known)
    }

    /// Whether nobody needs it: the packet id names another publish by now, nothing of it was taken, or it is acknowledged.
    fn is_settled(&self, place: u64, packet: u16) -> bool {
        self.by_packet.get(&packet).is_none_or(|known| {
            known.publish.place != place
                || known.taken == 0
                || known.acknowledged
                || (known.number.is_none() && !self.redelivering)
        })
    }

    /// Makes room for one more.
    fn make_room(&mut self) {
        while self.order.len() >= self.most {
            let Some(&(place, packet)) = self.order.front() else {
                break;
            };
            let is_full = self.order.len() >= usize::from(u16::MAX);
            if !is_full && !self.is_settled(place, packet) {
                break;
            }
            self.order.pop_front();
            if self
                .by_packet
                .get(&packet)
                .is_some_and(|known| known.publish.place == place)
            {
                self.by_packet.remove(&packet);
            }
        }
    }

    fn remember(&mut self, receipt: Receipt) {
        let (place, packet) = (receipt.publish.place, receipt.publish.packet);
        self.by_packet.insert(packet, receipt);
        self.order.push_back((place, packet));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::PublishMark;

    const A: [u8; 32] = [1; 32];
    const B: [u8; 32] = [2; 32];

    fn receipts() -> Receipts {
        Receipts::new("node-in@broker:1883", 3)
    }

    fn mark(place: u64, session: u64, packet: u16) -> PublishMark {
        let publish = PublishRef {
            client: "node-in@broker:1883".into(),
            session,
            place,
            keep_from: 0,
            packet,
            hash: A,
        };
        PublishMark {
            publish: Arc::new(publish),
            taken: 1,
        }
    }

    #[test]
    fn a_publish_delivered_again_is_known_as_far_as_it_was_taken() {
        let mut receipts = receipts();
        let first = receipts.open(5, A, false, 0);
        assert_eq!(first.taken, 0);
        receipts.stored(&first.publish, 2);
        let again = receipts.open(5, A, true, 1);
        assert_eq!((again.publish.place, again.taken), (first.publish.place, 2));
    }

    #[test]
    fn another_publish_under_the_same_packet_id_is_not_mistaken_for_it() {
        for (hash, duplicate) in [(A, false), (B, true), (B, false)] {
            let mut receipts = receipts();
            let first = receipts.open(5, A, false, 0);
            receipts.stored(&first.publish, 2);
            let other = receipts.open(5, hash, duplicate, 1);
            assert_eq!(other.taken, 0);
            assert_ne!(other.publish.place, first.publish.place);
        }
    }

    #[test]
    fn a_session_that_the_broker_lost_tells_nothing_of_the_next_one() {
        let mut receipts = receipts();
        let first = receipts.open(5, A, false, 0);
        receipts.stored(&first.publish, 1);
        receipts.renew(7);
        let other = receipts.open(5, A, true, 1);
        assert_eq!((other.publish.session, other.taken), (7, 0));
    }

    #[test]
    fn as_many_are_kept_as_may_be_unacknowledged() {
        let mut receipts = receipts();
        for packet in 1..=4 {
            let opened = receipts.open(packet, A, false, packet.into());
            receipts.stored(&opened.publish, 1);
            receipts.acknowledged(packet, packet.into());
        }
        let newest = receipts.open(4, A, true, 9).publish;
        assert_eq!(newest.keep_from, 1, "the first of four is settled");
        assert_eq!(receipts.open(2, A, true, 9).taken, 1);
        assert_eq!(receipts.open(1, A, true, 9).taken, 0);
    }

    #[test]
    fn what_is_not_acknowledged_is_kept_however_many_come_behind_it() {
        let mut receipts = receipts();
        for packet in 1..=9 {
            let opened = receipts.open(packet, A, false, packet.into());
            receipts.stored(&opened.publish, 1);
            assert_eq!(opened.publish.keep_from, 0);
            // All but the first.
            receipts.acknowledged(packet, packet.max(2).into());
        }
        assert_eq!(receipts.open(1, A, true, 20).taken, 1);
        receipts.acknowledged(1, 20);
        let next = receipts.open(10, A, false, 21).publish;
        assert_eq!((next.place, next.keep_from), (9, 7));
    }

    #[test]
    fn what_an_earlier_run_stored_is_kept_until_something_new_comes() {
        let mut receipts = receipts();
        receipts.load(StoredReceipts {
            session: 0,
            marks: (1..=5)
                .map(|packet| mark(packet.into(), 0, packet))
                .collect(),
        });
        receipts.open(9, B, true, 0);
        assert_eq!(receipts.open(1, A, true, 1).taken, 1);
        receipts.acknowledged(1, 1);
        let new = receipts.open(8, B, false, 2).publish;
        assert_eq!(new.keep_from, 5);
    }

    #[test]
    fn what_an_earlier_run_stored_is_known_again() {
        let mut receipts = receipts();
        receipts.load(StoredReceipts {
            session: 2,
            marks: vec![mark(3, 2, 5), mark(4, 1, 6)],
        });
        assert_eq!(receipts.open(5, A, true, 0).taken, 1);
        let other = receipts.open(6, A, true, 1);
        assert_eq!((other.publish.place, other.publish.session), (5, 2));
        assert_eq!(other.taken, 0);
    }

    #[test]
    fn a_publish_whose_rows_were_refused_is_known_as_far_as_it_is_stored() {
        let mut receipts = receipts();
        let first = receipts.open(5, A, false, 4);
        receipts.stored(&first.publish, 9);
        receipts.stored(&first.publish, 3);
        assert_eq!(receipts.open(5, A, true, 5).taken, 3);
    }
}
