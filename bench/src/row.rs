//! What is measured, and what has to come out.

use anyhow::Result;

use crate::{chart::Curve, context::Context, series::Outcome};

/// What the ratio, ours to the peer's, has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub(crate) const fn value(self) -> f64 {
        match self {
            Self::AtLeast(value) | Self::AtMost(value) => value,
        }
    }

    pub(crate) fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::AtMost(most) => format!("≤ {most}"),
        }
    }
}

/// One line of the results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Its name, which stays what it is.
    pub(crate) name: &'static str,
    /// What is measured, in words.
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// What it is compared with.
    pub(crate) peer: Option<&'static str>,
    pub(crate) target: Option<Target>,
    /// How to read it, and why it misses its target if it does. Goes into `docs/benchmarks.md`.
    pub(crate) note: &'static str,
}

/// A row with a target.
pub(crate) const fn row(
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    peer: &'static str,
    target: Target,
    note: &'static str,
) -> Row {
    Row { name, what, unit, peer: Some(peer), target: Some(target), note }
}

/// A row without a target.
pub(crate) const fn info(
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    peer: Option<&'static str>,
    note: &'static str,
) -> Row {
    Row { name, what, unit, peer, target: None, note }
}

/// Rows that one set-up gives at once.
pub(crate) struct Bench {
    pub(crate) rows: &'static [Row],
    pub(crate) run: fn(&Context) -> Result<Measured>,
}

/// What a [`Bench`] has measured: an outcome for each row, in their order.
pub(crate) struct Measured {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) curves: Vec<Curve>,
}

impl<const N: usize> From<[Outcome; N]> for Measured {
    fn from(outcomes: [Outcome; N]) -> Self {
        Self { outcomes: outcomes.into(), curves: Vec::new() }
    }
}

/// A row with what was measured.
pub(crate) struct Finished {
    pub(crate) row: &'static Row,
    pub(crate) outcome: Outcome,
}

impl Finished {
    /// Whether the target is met; `None` where there is none, or no ratio.
    pub(crate) fn met(&self) -> Option<bool> {
        Some(self.row.target?.is_met(self.outcome.ratio()?))
    }
}
