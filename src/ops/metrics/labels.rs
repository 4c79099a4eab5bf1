//! Labels of metrics whose values are all known.

use crate::{
    model::{delivery::Outcome, event::Skip, health::Circuit, parked::Reason, window::Granularity},
    wire::PoisonReason,
};

/// A label.
pub trait Label: Copy + PartialEq + 'static {
    /// Every value.
    const ALL: &'static [Self];

    /// How a value stands on the page.
    fn text(self) -> &'static str;
}

impl Label for Skip {
    const ALL: &'static [Self] = &Skip::ALL;

    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for PoisonReason {
    const ALL: &'static [Self] = &PoisonReason::ALL;

    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for Outcome {
    const ALL: &'static [Self] = &Outcome::ALL;

    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for Reason {
    const ALL: &'static [Self] = &Reason::ALL;

    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for Granularity {
    const ALL: &'static [Self] = &Granularity::ALL;

    fn text(self) -> &'static str {
        self.as_str()
    }
}

/// The state of a webhook's circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitState {
    Healthy,
    Tripped,
    Disabled,
}

impl Label for CircuitState {
    const ALL: &'static [Self] = &[Self::Healthy, Self::Tripped, Self::Disabled];

    fn text(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Tripped => "tripped",
            Self::Disabled => "disabled",
        }
    }
}

impl From<&Circuit> for CircuitState {
    fn from(circuit: &Circuit) -> Self {
        match circuit {
            Circuit::Healthy => Self::Healthy,
            Circuit::Tripped { .. } => Self::Tripped,
            Circuit::Disabled { .. } => Self::Disabled,
        }
    }
}

/// Why a token was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not valid.
    Token,
    /// The same, and too many were not valid before from the same address.
    TooMany,
}

impl Label for Refusal {
    const ALL: &'static [Self] = &[Self::Token, Self::TooMany];

    fn text(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::TooMany => "too_many",
        }
    }
}

/// The threads that tasks run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Those of everything but lanes.
    Main,
    /// Those of lanes, with their requests to endpoints.
    Requests,
}

impl Label for Runtime {
    const ALL: &'static [Self] = &[Self::Main, Self::Requests];

    fn text(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Requests => "requests",
        }
    }
}
