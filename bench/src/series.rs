//! What was measured: values, their middle and their spread.

use anyhow::Result;

use crate::context::Context;

/// Values of one side, one for each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn new(values: Vec<f64>) -> Self {
        Self(values)
    }

    pub(crate) fn rounds(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which that part of the values lies; between two of them it is a straight
    /// line.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        let place = part * last as f64;
        let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        low + (high - low) * place.fract()
    }

    /// Round by round, this side divided by the other.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(ours, peer)| ours / peer).collect())
    }
}

/// Both sides of one comparison; the other is empty where there is nothing to compare with.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) ours: Series,
    pub(crate) peer: Option<Series>,
}

impl Outcome {
    /// The medians' ratio, ours to the peer's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let ratio = self.ours.median() / self.peer.as_ref()?.median();
        ratio.is_finite().then_some(ratio)
    }

    /// The ratio of each round.
    pub(crate) fn ratios(&self) -> Option<Series> {
        let ratios = self.ours.over(self.peer.as_ref()?);
        let finite = ratios.0.iter().all(|ratio| ratio.is_finite());
        (finite && ratios.rounds() != 0).then_some(ratios)
    }
}

/// Measures both sides in turn, after a round that does not count. Each side is first as often as
/// the other, so that what drifts hits both.
pub(crate) fn alternate<const N: usize>(
    cx: &Context,
    mut ours: impl FnMut() -> Result<[f64; N]>,
    mut peer: impl FnMut() -> Result<[f64; N]>,
) -> Result<[Outcome; N]> {
    let mut sides = [const { Vec::new() }; N].map(|v: Vec<f64>| (v.clone(), v));
    for round in 0..=cx.rounds() {
        cx.check()?;
        cx.say_round(round);
        let (a, b) = if round % 2 == 0 {
            let a = ours()?;
            cx.check()?;
            (a, peer()?)
        } else {
            let b = peer()?;
            cx.check()?;
            (ours()?, b)
        };
        if round > 0 {
            for (side, (a, b)) in sides.iter_mut().zip(a.into_iter().zip(b)) {
                side.0.push(a);
                side.1.push(b);
            }
        }
    }
    Ok(sides.map(|(a, b)| Outcome { ours: Series::new(a), peer: Some(Series::new(b)) }))
}

/// Measures where there is nothing to compare with, after a round that does not count.
pub(crate) fn alone<const N: usize>(
    cx: &Context,
    mut ours: impl FnMut() -> Result<[f64; N]>,
) -> Result<[Outcome; N]> {
    let mut values = [const { Vec::new() }; N];
    for round in 0..=cx.rounds() {
        cx.check()?;
        cx.say_round(round);
        let measured = ours()?;
        if round > 0 {
            values.iter_mut().zip(measured).for_each(|(values, value)| values.push(value));
        }
    }
    Ok(values.map(|values| Outcome { ours: Series::new(values), peer: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_where_they_should() {
        let cases: &[(&[f64], f64, f64)] = &[
            (&[3.0], 0.5, 3.0),
            (&[3.0, 1.0, 2.0], 0.5, 2.0),
            (&[4.0, 1.0, 2.0, 3.0], 0.5, 2.5),
            (&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25, 2.0),
            (&[5.0, 1.0], 1.0, 5.0),
        ];
        for (values, part, want) in cases {
            let got = Series::new(values.to_vec()).quantile(*part);
            assert!((got - want).abs() < 1e-9, "{values:?} at {part}: {got}");
        }
    }
}
