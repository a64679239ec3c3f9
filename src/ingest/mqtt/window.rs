//! Publishes that were received and are not acknowledged yet, in arrival order. Pure.
//!
//! Numbers each publish. A publish is released when it and all before it are done; those of an earlier connection are
//! dropped instead, because their packet ids name other messages there. What was released counts until it has left. Counts the publishes
//! of this connection that were passed over: the broker holds them, and delivers them again over the next one.

use std::collections::VecDeque;

/// See the module; `P` is the publish to acknowledge.
#[derive(Debug)]
pub struct AckWindow<P = rumqttc::v5::mqttbytes::v5::Publish> {
    generation: u64,
    first: u64,
    waiting: VecDeque<Waiting<P>>,
    /// Acknowledgements that were released and have not left.
    leaving: usize,
    passed_over: usize,
}

#[derive(Debug)]
struct Waiting<P> {
    publish: P,
    generation: u64,
    done: bool,
    abandoned: bool,
}

impl<P> Default for AckWindow<P> {
    fn default() -> Self {
        Self {
            generation: 0,
            first: 0,
            waiting: VecDeque::new(),
            leaving: 0,
            passed_over: 0,
        }
    }
}

impl<P> AckWindow<P> {
    /// A new connection: earlier publishes will not be acknowledged.
    pub fn reconnected(&mut self) {
        self.generation += 1;
        self.leaving = 0;
        self.passed_over = 0;
    }

    /// The current connection.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds a publish that came over connection `generation`; its number names it later.
    pub fn push(&mut self, publish: P, generation: u64) -> u64 {
        self.waiting.push_back(Waiting {
            publish,
            generation,
            done: false,
            abandoned: false,
        });
        self.first + self.waiting.len() as u64 - 1
    }

    /// Everything of publish `number` is committed.
    pub fn done(&mut self, number: u64) {
        if let Some(waiting) = self.find(number) {
            waiting.done = true;
        }
    }

    /// Publish `number` will not be committed: it is passed over, and the broker delivers it again over the next connection.
    pub fn abandon(&mut self, number: u64) {
        let generation = self.generation;
        if let Some(waiting) = self.find(number)
            && !std::mem::replace(&mut waiting.abandoned, true)
            && waiting.generation == generation
        {
            self.passed_over += 1;
        }
    }

    /// Publishes of this connection that the broker holds and that are passed over.
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    fn find(&mut self, number: u64) -> Option<&mut Waiting<P>> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.waiting.get_mut(place)
    }

    /// The next publish to acknowledge and its number, if the oldest is done. It stays until it is released.
    pub fn due(&mut self) -> Option<(u64, &P)> {
        let generation = self.generation;
        let is_stale = |front: &Waiting<P>| front.generation != generation || front.abandoned;
        while self.waiting.pop_front_if(|front| is_stale(front)).is_some() {
            self.first += 1;
        }
        let front = self.waiting.front()?;
        front.done.then_some((self.first, &front.publish))
    }

    /// The publish that was due is on its way to be acknowledged.
    pub fn release(&mut self) {
        if self.waiting.pop_front().is_some() {
            self.first += 1;
            self.leaving += 1;
        }
    }

    /// An acknowledgement that was released has left, or needs none.
    pub fn left(&mut self) {
        self.leaving = self.leaving.saturating_sub(1);
    }

    /// Publishes that are not acknowledged.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.leaving
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release_all(window: &mut AckWindow<&'static str>) -> Vec<&'static str> {
        let next = || {
            let (_, publish) = window.due()?;
            let publish = *publish;
            window.release();
            Some(publish)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn publishes_are_released_in_arrival_order() {
        let mut window = AckWindow::default();
        let [a, b, c] = ["a", "b", "c"].map(|publish| window.push(publish, 0));
        window.done(c);
        window.done(b);
        assert!(release_all(&mut window).is_empty());
        window.done(a);
        assert_eq!(release_all(&mut window), ["a", "b", "c"]);
    }

    #[test]
    fn a_released_publish_counts_until_its_acknowledgement_has_left() {
        let mut window = AckWindow::default();
        let [a, b] = ["a", "b"].map(|publish| window.push(publish, 0));
        window.done(a);
        assert_eq!(release_all(&mut window), ["a"]);
        assert_eq!(window.len(), 2);
        window.left();
        assert_eq!(window.len(), 1);
        window.done(b);
        assert_eq!(release_all(&mut window), ["b"]);
        // What has not left with its connection never will.
        window.reconnected();
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn a_publish_is_due_until_it_is_released() {
        let mut window = AckWindow::default();
        let only = window.push("only", 0);
        assert_eq!(window.due(), None);
        window.done(only);
        assert_eq!(window.due(), Some((only, &"only")));
        assert_eq!(window.due(), Some((only, &"only")));
        window.release();
        assert_eq!(window.due(), None);
    }

    #[test]
    fn publishes_of_an_earlier_connection_are_never_released() {
        let mut window = AckWindow::default();
        let old = window.push("old", 0);
        window.reconnected();
        let new = window.push("new", 1);
        window.done(old);
        window.done(new);
        assert_eq!(release_all(&mut window), ["new"]);
    }

    #[test]
    fn an_abandoned_publish_holds_up_nobody_and_is_never_released() {
        let mut window = AckWindow::default();
        let [lost, next] = ["lost", "next"].map(|publish| window.push(publish, 0));
        window.done(next);
        window.abandon(lost);
        assert_eq!(release_all(&mut window), ["next"]);
    }

    #[test]
    fn publishes_that_are_passed_over_count_until_the_next_connection() {
        let mut window = AckWindow::default();
        let [old, lost] = ["old", "lost"].map(|publish| window.push(publish, 0));
        window.abandon(lost);
        window.abandon(lost);
        assert_eq!(window.passed_over(), 1);
        window.reconnected();
        window.abandon(old);
        assert_eq!(window.passed_over(), 0, "the broker delivers it again");
    }

    #[test]
    fn unfinished_publishes_of_an_earlier_connection_hold_up_nobody() {
        let mut window = AckWindow::default();
        window.push("old", 0);
        window.reconnected();
        let new = window.push("new", 1);
        window.done(new);
        assert_eq!(release_all(&mut window), ["new"]);
    }

    #[test]
    fn a_number_that_was_released_is_ignored() {
        let mut window = AckWindow::default();
        let first = window.push("first", 0);
        window.done(first);
        assert_eq!(release_all(&mut window), ["first"]);
        window.done(first);
        window.push("second", 0);
        assert!(release_all(&mut window).is_empty());
    }
}
