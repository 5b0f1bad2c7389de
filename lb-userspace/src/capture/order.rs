//! Packets of several CPUs, put into the order in which they came.

/// Things with a time, held back for a moment: what another CPU has seen before them may be told
/// after them.
#[derive(Debug)]
pub struct Order<T> {
    held: Vec<(u64, T)>,
}

/// How long a thing is held back, in nanoseconds: far longer than the program needs for a packet.
pub const HELD_BACK: u64 = 2_000_000;

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self { held: Vec::new() }
    }
}

impl<T> Order<T> {
    /// Takes something of that time, in nanoseconds.
    pub fn take_in(&mut self, nanoseconds: u64, thing: T) {
        self.held.push((nanoseconds, thing));
    }

    /// Gives out what no earlier thing can come before, in order. `read_at` is the time before
    /// which everything that was told has been taken in.
    pub fn give_out(&mut self, read_at: u64) -> impl Iterator<Item = T> {
        // Things of one time stay in the order in which they were told.
        self.held.sort_by_key(|(nanoseconds, _)| *nanoseconds);
        let limit = read_at.saturating_sub(HELD_BACK);
        let ready = self.held.partition_point(|(time, _)| *time <= limit);
        self.held.drain(..ready).map(|(_, thing)| thing)
    }

    /// Whether something is still held back.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_late_still_comes_in_its_place() {
        let mut order = Order::default();
        order.take_in(HELD_BACK + 5, 'c');
        order.take_in(3, 'a');
        order.take_in(4, 'b');
        let out: String = order.give_out(HELD_BACK + 6).collect();
        assert_eq!(out, "ab");
        assert!(order.is_holding());

        order.take_in(HELD_BACK + 4, 'd');
        let out: String = order.give_out(u64::MAX).collect();
        assert_eq!(out, "dc");
        assert!(!order.is_holding());
    }

    #[test]
    fn things_of_one_time_keep_their_order() {
        let mut order = Order::default();
        for letter in ['x', 'y', 'z'] {
            order.take_in(7, letter);
        }
        assert_eq!(order.give_out(u64::MAX).collect::<String>(), "xyz");
    }
}
