//! Publishes that were taken and may be delivered again, by packet id. Pure.
//!
//! A broker that did not hear an acknowledgement delivers the publish again, marked as a duplicate, under the same packet id of the same
//! session. Readings with a number are absorbed by it; for others this remembers how much of the publish was taken. Keeps the newest
//! publishes, as many as may be unacknowledged at once: acknowledgements leave in arrival order, so the broker has heard all before them.

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
}

#[derive(Debug)]
struct Receipt {
    publish: Arc<PublishRef>,
    taken: u32,
    /// Its number in the window; `None` for one that an earlier run took.
    number: Option<u64>,
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

    /// The publish to mark rows with, and how many of its messages were taken before. `number` is its place in the window.
    pub fn open(
        &mut self,
        packet: u16,
        hash: [u8; 32],
        duplicate: bool,
        number: u64,
    ) -> (Arc<PublishRef>, u32) {
        if let Some(known) = self.by_packet.get_mut(&packet)
            && duplicate
            && known.publish.hash == hash
        {
            known.number = Some(number);
            return (Arc::clone(&known.publish), known.taken);
        }
        let publish = Arc::new(PublishRef {
            client: Arc::clone(&self.client),
            session: self.session,
            place: self.next_place,
            keep_from: (self.next_place + 1).saturating_sub(self.most as u64),
            packet,
            hash,
        });
        self.next_place += 1;
        self.remember(Receipt {
            publish: Arc::clone(&publish),
            taken: 0,
            number: Some(number),
        });
        (publish, 0)
    }

    /// So many messages of the publish are on their way to the store.
    pub fn taken(&mut self, publish: &PublishRef, taken: u32) {
        if let Some(known) = self.by_packet.get_mut(&publish.packet)
            && known.publish.place == publish.place
        {
            known.taken = known.taken.max(taken);
        }
    }

    /// Rows of publish `number` will never be stored: it has to be taken again.
    pub fn forget(&mut self, number: u64) {
        self.by_packet
            .retain(|_, known| known.number != Some(number));
    }

    fn remember(&mut self, receipt: Receipt) {
        let (place, packet) = (receipt.publish.place, receipt.publish.packet);
        self.by_packet.insert(packet, receipt);
        self.order.push_back((place, packet));
        while self.order.len() > self.most {
            let Some((place, packet)) = self.order.pop_front() else {
                break;
            };
            // The packet id may name a newer publish by now.
            if self
                .by_packet
                .get(&packet)
                .is_some_and(|known| known.publish.place == place)
            {
                self.by_packet.remove(&packet);
            }
        }
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

    #[test]
    fn a_publish_delivered_again_is_known_as_far_as_it_was_taken() {
        let mut receipts = receipts();
        let (publish, before) = receipts.open(5, A, false, 0);
        assert_eq!(before, 0);
        receipts.taken(&publish, 2);
        let (again, before) = receipts.open(5, A, true, 1);
        assert_eq!((again.place, before), (publish.place, 2));
    }

    #[test]
    fn another_publish_under_the_same_packet_id_is_not_mistaken_for_it() {
        for (hash, duplicate) in [(A, false), (B, true), (B, false)] {
            let mut receipts = receipts();
            let (publish, _) = receipts.open(5, A, false, 0);
            receipts.taken(&publish, 2);
            let (other, before) = receipts.open(5, hash, duplicate, 1);
            assert_eq!(before, 0);
            assert_ne!(other.place, publish.place);
        }
    }

    #[test]
    fn a_session_that_the_broker_lost_tells_nothing_of_the_next_one() {
        let mut receipts = receipts();
        let (publish, _) = receipts.open(5, A, false, 0);
        receipts.taken(&publish, 1);
        receipts.renew(7);
        let (other, before) = receipts.open(5, A, true, 1);
        assert_eq!((other.session, before), (7, 0));
    }

    #[test]
    fn as_many_are_kept_as_may_be_unacknowledged() {
        let mut receipts = receipts();
        for packet in 1..=4 {
            let (publish, _) = receipts.open(packet, A, false, packet.into());
            receipts.taken(&publish, 1);
        }
        let (newest, _) = receipts.open(4, A, true, 9);
        assert_eq!(newest.keep_from, 1, "the first of four is settled");
        assert_eq!(receipts.open(2, A, true, 9).1, 1);
        assert_eq!(receipts.open(1, A, true, 9).1, 0);
    }

    #[test]
    fn what_an_earlier_run_stored_is_known_again() {
        let mut receipts = receipts();
        let mark = |place, session, packet| PublishMark {
            publish: Arc::new(PublishRef {
                client: "node-in@broker:1883".into(),
                session,
                place,
                keep_from: 0,
                packet,
                hash: A,
            }),
            taken: 1,
        };
        receipts.load(StoredReceipts {
            session: 2,
            marks: vec![mark(3, 2, 5), mark(4, 1, 6)],
        });
        assert_eq!(receipts.open(5, A, true, 0).1, 1);
        let (other, before) = receipts.open(6, A, true, 1);
        assert_eq!((other.place, other.session, before), (5, 2, 0));
    }

    #[test]
    fn a_publish_whose_rows_were_refused_is_taken_again() {
        let mut receipts = receipts();
        let (publish, _) = receipts.open(5, A, false, 4);
        receipts.taken(&publish, 1);
        receipts.forget(4);
        assert_eq!(receipts.open(5, A, true, 5).1, 0);
    }
}
