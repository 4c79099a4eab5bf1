//! How many requests of a webhook may be in flight at once: few after an outage, then more with each success.

/// The limit of a lane, which begins anew at one request when the circuit closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    limit: usize,
    allowed: usize,
}

impl Ramp {
    /// Starts at the limit, which is at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), allowed: limit.max(1) }
    }

    /// Requests that may be in flight now.
    #[must_use]
    pub fn allowed(&self) -> usize {
        self.allowed
    }

    /// The webhook has just recovered: one request, to see whether it stands.
    pub fn restart(&mut self) {
        self.allowed = 1;
    }

    /// A success doubles what is allowed, up to the limit.
    pub fn succeeded(&mut self) {
        self.allowed = (self.allowed * 2).min(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_outage_each_success_doubles_what_is_allowed_up_to_the_limit() {
        let mut ramp = Ramp::new(6);
        assert_eq!(ramp.allowed(), 6);
        ramp.restart();
        let mut allowed = vec![ramp.allowed()];
        for _ in 0..4 {
            ramp.succeeded();
            allowed.push(ramp.allowed());
        }
        assert_eq!(allowed, [1, 2, 4, 6, 6]);
    }

    #[test]
    fn at_least_one_request_is_allowed() {
        assert_eq!(Ramp::new(0).allowed(), 1);
    }
}
