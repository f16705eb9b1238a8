//! Charts.

use crate::series::Series;

/// A quantity over a growing one, for several parties.
pub(crate) struct Curve {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) lines: Vec<(&'static str, Vec<(f64, Series)>)>,
}
