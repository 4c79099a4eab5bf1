//! How many requests of a webhook may be in flight at once: few after an outage, then more with each success up to the
//! usual number, and beyond that while there is more to send and the endpoint keeps its pace.

use std::time::Duration;

/// An endpoint keeps its pace as long as it takes at most so many times as long as it does at its best.
const SLOWER: u32 = 2;
/// What is this fast is never slow.
const FAST: Duration = Duration::from_millis(20);

/// The number of requests that a lane may have in flight.
///
/// Below the usual number each success doubles it. Beyond that it rises by one for each round of successes while all
/// places are taken, and falls by a quarter when the endpoint gets slower (additive increase, multiplicative decrease;
/// the signal is the time to the answer, as in TCP Vegas).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ramp {
    usual: usize,
    ceiling: usize,
    allowed: usize,
    /// Successes since it was changed last.
    round: usize,
    /// The shortest time to an answer; rises by a thousandth with each, so that an old one does not count for ever.
    best: Option<Duration>,
}

impl Ramp {
    /// Starts at the usual number, which is at least one.
    #[must_use]
    pub fn new(usual: usize, ceiling: usize) -> Self {
        let usual = usual.max(1);
        Self { usual, ceiling: ceiling.max(usual), allowed: usual, round: 0, best: None }
    }

    /// Requests that may be in flight now.
    #[must_use]
    pub fn allowed(&self) -> usize {
        self.allowed
    }

    /// The webhook has just recovered: one request, to see whether it stands.
    pub fn restart(&mut self) {
        (self.allowed, self.round, self.best) = (1, 0, None);
    }

    /// A request succeeded after so long; `full` says that all places were taken then.
    pub fn succeeded(&mut self, took: Duration, full: bool) {
        let best = self.best.map_or(took, |best| took.min(best + best / 1_000));
        self.best = Some(best);
        if self.allowed < self.usual {
            self.allowed = (self.allowed * 2).min(self.usual);
            return;
        }
        self.round += 1;
        if self.round < self.allowed {
            return;
        }
        self.round = 0;
        if took > FAST.max(best * SLOWER) {
            self.allowed = (self.allowed * 3 / 4).max(self.usual);
        } else if full {
            self.allowed = (self.allowed + 1).min(self.ceiling);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(30);
    const SLOW: Duration = Duration::from_millis(90);

    fn after(ramp: &mut Ramp, successes: usize, took: Duration, full: bool) -> usize {
        for _ in 0..successes {
            ramp.succeeded(took, full);
        }
        ramp.allowed()
    }

    #[test]
    fn after_an_outage_each_success_doubles_what_is_allowed_up_to_the_usual_number() {
        let mut ramp = Ramp::new(6, 6);
        assert_eq!(ramp.allowed(), 6);
        ramp.restart();
        let mut allowed = vec![ramp.allowed()];
        for _ in 0..4 {
            allowed.push(after(&mut ramp, 1, QUICK, true));
        }
        assert_eq!(allowed, [1, 2, 4, 6, 6]);
    }

    #[test]
    fn an_endpoint_that_keeps_its_pace_gets_more_at_once_up_to_the_ceiling() {
        let mut ramp = Ramp::new(8, 10);
        assert_eq!(after(&mut ramp, 7, QUICK, true), 8);
        assert_eq!(after(&mut ramp, 1, QUICK, true), 9);
        assert_eq!(after(&mut ramp, 100, QUICK, true), 10);
    }

    #[test]
    fn one_that_gets_slower_gets_fewer_but_not_below_the_usual_number() {
        let mut ramp = Ramp::new(8, 32);
        assert!(after(&mut ramp, 300, QUICK, true) > 20);
        assert!(after(&mut ramp, 100, SLOW, true) < 20);
        assert_eq!(after(&mut ramp, 100, Duration::from_secs(1), true), 8);
    }

    #[test]
    fn where_there_is_nothing_more_to_send_it_does_not_rise() {
        let mut ramp = Ramp::new(8, 32);
        assert_eq!(after(&mut ramp, 300, QUICK, false), 8);
    }

    #[test]
    fn an_endpoint_that_has_become_slower_for_good_is_measured_anew() {
        let mut ramp = Ramp::new(8, 32);
        after(&mut ramp, 100, QUICK, true);
        assert!(after(&mut ramp, 1_000, SLOW, true) > 8);
    }

    #[test]
    fn at_least_one_request_is_allowed() {
        assert_eq!(Ramp::new(0, 0).allowed(), 1);
    }
}
