//! Charts, as SVG: bars with their spread, and lines.
//!
//! Written by hand: three shapes and text are all that is needed, and a chart that brings its own
//! white card is readable on a white and on a dark page.

use std::fmt::Write as _;

use crate::{
    report::number,
    row::{Finished, Target},
    series::Series,
};

/// A quantity over a growing one, for several parties.
pub(crate) struct Curve {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    /// Whether what is counted upwards is so on a logarithmic axis.
    pub(crate) log: bool,
    pub(crate) lines: Vec<(&'static str, Vec<(f64, Series)>)>,
}

impl Curve {
    /// The curve without the points that could not be measured; `None` if no line is left.
    pub(crate) fn measured(&self) -> Option<Self> {
        let mut lines = self.lines.clone();
        for (_, points) in &mut lines {
            points.retain(|(_, series)| series.min().is_finite() && series.max().is_finite());
        }
        lines.retain(|(_, points)| points.len() > 1);
        let Self { file, title, x, y, log, .. } = *self;
        (!lines.is_empty()).then_some(Self { file, title, x, y, log, lines })
    }
}

const WIDTH: f64 = 840.0;
const COLOURS: [&str; 2] = ["#2563eb", "#d97706"];
const INK: &str = "#1f2937";
const GRID: &str = "#d1d5db";
const MARK: &str = "#b91c1c";

/// A drawing on a white card.
struct Svg {
    body: String,
    height: f64,
}

impl Svg {
    fn new(height: f64, title: &str) -> Self {
        let mut svg = Self { body: String::new(), height };
        svg.text((20.0, 30.0), "start", 17, title);
        svg
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, size: u32, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{text}</text>"#
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let _ = writeln!(
            self.body,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}" stroke-width="{width}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    fn bar(&mut self, (x, y): (f64, f64), width: f64, height: f64, colour: &str) {
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{height:.1}" fill="{colour}"/>"#,
            width.max(0.5)
        );
    }

    fn path(&mut self, points: &[(f64, f64)], colour: &str) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.body,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2.5"/>"#,
            points.join(" ")
        );
    }

    fn dot(&mut self, (x, y): (f64, f64), colour: &str) {
        let _ = writeln!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{colour}"/>"#);
    }

    /// Names and their colours, in one row.
    fn legend(&mut self, y: f64, entries: &[(&str, &str)]) {
        let mut x = 20.0;
        for (name, colour) in entries {
            self.bar((x, y - 10.0), 14.0, 12.0, colour);
            self.text((x + 20.0, y), "start", 13, name);
            x += 50.0 + 7.5 * f64::from(u32::try_from(name.chars().count()).unwrap_or(0));
        }
    }

    fn finish(self) -> String {
        let (height, body) = (self.height, self.body);
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, 'DejaVu Sans', sans-serif" fill="{INK}">
<rect x="1" y="1" width="{}" height="{}" rx="8" fill="#ffffff" stroke="{GRID}"/>
{body}</svg>
"##,
            WIDTH - 2.0,
            height - 2.0
        )
    }
}

/// Where values lie on an axis.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.max(self.low).ln() } else { value };
        let part = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low));
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values between its ends, about five of them; powers of ten on a logarithmic axis.
    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let powers = (-9..=12).map(|power| 10_f64.powi(power));
            return powers.filter(|tick| (self.low..=self.high).contains(tick)).collect();
        }
        let rough = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        (0..20).map(|n| self.low + f64::from(n) * step).take_while(|v| *v <= self.high).collect()
    }
}

/// Frames a second of every row that has them, ours and the peer's.
pub(crate) fn frames(all: &[Finished]) -> String {
    let rows: Vec<_> = all.iter().filter(|f| f.row.unit == "frames/s").collect();
    let bars = rows.iter().map(|f| 1 + usize::from(f.outcome.peer.is_some())).sum::<usize>();
    let height = 120.0 + 20.0 * count(rows.len()) + 22.0 * count(bars);
    let mut svg = Svg::new(height, "Frames per second: median, and the spread of all rounds");
    svg.legend(54.0, &[("maclane (or the limit alone)", COLOURS[0]), ("peer", COLOURS[1])]);
    let most = rows.iter().map(|f| f.outcome.ours.max()).fold(1.0, f64::max);
    let axis = Axis { low: 0.0, high: most * 1.02, from: 250.0, to: WIDTH - 90.0, log: false };
    let bottom = height - 45.0;
    for tick in axis.ticks() {
        svg.line((axis.at(tick), 70.0), (axis.at(tick), bottom), GRID, 1.0);
        svg.text((axis.at(tick), bottom + 16.0), "middle", 12, &format!("{} M", tick / 1e6));
    }
    svg.text((f64::midpoint(axis.from, axis.to), bottom + 34.0), "middle", 13, "frames/s, one CPU");
    let mut y = 80.0;
    for finished in rows {
        svg.text((240.0, y + 13.0), "end", 13, finished.row.name);
        let sides = [Some(&finished.outcome.ours), finished.outcome.peer.as_ref()];
        for (series, colour) in sides.into_iter().zip(COLOURS) {
            let Some(series) = series else { continue };
            svg.bar((axis.from, y), axis.at(series.median()) - axis.from, 16.0, colour);
            let (low, high) = (axis.at(series.min()), axis.at(series.max()));
            svg.line((low, y + 8.0), (high, y + 8.0), INK, 1.5);
            svg.text(
                (high + 6.0, y + 13.0),
                "start",
                12,
                &format!("{:.2} M", series.median() / 1e6),
            );
            y += 22.0;
        }
        y += 20.0;
    }
    svg.finish()
}

/// The ratio of every row that has a target, beside that target.
pub(crate) fn ratios(all: &[Finished]) -> String {
    let rows: Vec<_> = all.iter().filter(|f| f.row.target.is_some()).collect();
    let height = 150.0 + 28.0 * count(rows.len());
    let mut svg = Svg::new(height, "maclane ÷ peer: median, spread of the rounds, and target");
    svg.legend(
        54.0,
        &[("target met", COLOURS[0]), ("target missed", COLOURS[1]), ("target", MARK)],
    );
    let axis = Axis { low: 0.02, high: 20.0, from: 220.0, to: WIDTH - 110.0, log: true };
    let bottom = height - 55.0;
    for tick in [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0] {
        svg.line((axis.at(tick), 70.0), (axis.at(tick), bottom), GRID, 1.0);
        svg.text((axis.at(tick), bottom + 16.0), "middle", 12, &tick.to_string());
    }
    svg.line((axis.at(1.0), 70.0), (axis.at(1.0), bottom), INK, 1.0);
    let middle = f64::midpoint(axis.from, axis.to);
    svg.text((middle, bottom + 36.0), "middle", 13, "ours ÷ peer, logarithmic");
    for (place, finished) in rows.into_iter().enumerate() {
        let y = 78.0 + 28.0 * count(place);
        svg.text((210.0, y + 13.0), "end", 13, finished.row.name);
        let (Some(ratio), Some(target)) = (finished.outcome.ratio(), finished.row.target) else {
            continue;
        };
        let colour = COLOURS[usize::from(finished.met() != Some(true))];
        let (one, end) = (axis.at(1.0), axis.at(ratio));
        svg.bar((one.min(end), y), (end - one).abs(), 16.0, colour);
        if let Some(ratios) = finished.outcome.ratios() {
            svg.line((axis.at(ratios.min()), y + 8.0), (axis.at(ratios.max()), y + 8.0), INK, 1.5);
        }
        let mark = axis.at(target.value());
        svg.line((mark, y - 4.0), (mark, y + 20.0), MARK, 2.5);
        let better = if matches!(target, Target::AtLeast(_)) { "≥" } else { "≤" };
        let text = format!("{ratio:.2} ({better} {})", target.value());
        svg.text((WIDTH - 100.0, y + 13.0), "start", 12, &text);
    }
    svg.finish()
}

/// Lines over a growing quantity.
pub(crate) fn curve(curve: &Curve) -> String {
    let mut svg = Svg::new(420.0, curve.title);
    let names: Vec<_> =
        curve.lines.iter().zip(COLOURS).map(|((name, _), colour)| (*name, colour)).collect();
    svg.legend(54.0, &names);
    let points = || curve.lines.iter().flat_map(|(_, points)| points);
    let most = points().map(|(_, s)| s.max()).fold(0.0, f64::max);
    let lowest = points().map(|(_, s)| s.min()).fold(most, f64::min);
    let (first, last) =
        points().fold((f64::INFINITY, 0.0_f64), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
    let x = Axis { low: first, high: last, from: 90.0, to: WIDTH - 50.0, log: true };
    // From one power of ten to another, so that both ends have a name.
    let power = |value: f64, round: fn(f64) -> f64| 10_f64.powf(round(value.max(1e-9).log10()));
    let (low, high) = if curve.log {
        (power(lowest, f64::floor), power(most, f64::ceil))
    } else {
        (0.0, most * 1.05)
    };
    let y = Axis { low, high, from: 350.0, to: 75.0, log: curve.log };
    for tick in y.ticks() {
        svg.line((x.from, y.at(tick)), (x.to, y.at(tick)), GRID, 1.0);
        svg.text((x.from - 8.0, y.at(tick) + 4.0), "end", 12, &short(tick));
    }
    let mut ticks: Vec<f64> = points().map(|(x, _)| *x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for tick in ticks {
        svg.text(
            (x.at(tick), 368.0),
            "middle",
            12,
            &number(tick).replace(".00", "").replace(".0", ""),
        );
    }
    svg.text(
        (f64::midpoint(x.from, x.to), 400.0),
        "middle",
        13,
        &format!("{}, logarithmic", curve.x),
    );
    let scale = if curve.log { ", logarithmic" } else { "" };
    // Not above its axis: the highest tick is there.
    svg.text((x.to, 54.0), "end", 13, &format!("{}{scale}", curve.y));
    for ((_, points), colour) in curve.lines.iter().zip(COLOURS) {
        let at = |(value, series): &(f64, Series)| (x.at(*value), y.at(series.median()));
        svg.path(&points.iter().map(at).collect::<Vec<_>>(), colour);
        for point in points {
            let (place, middle) = at(point);
            svg.line((place, y.at(point.1.min())), (place, y.at(point.1.max())), colour, 1.5);
            svg.dot((place, middle), colour);
        }
    }
    svg.finish()
}

/// A number on an axis.
fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{} M", (value / 1e5).round() / 10.0),
        _ if value >= 1e4 => format!("{} k", (value / 1e2).round() / 10.0),
        _ => format!("{}", (value * 100.0).round() / 100.0),
    }
}

#[allow(clippy::cast_precision_loss)]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis { low: 0.0, high: 7.3e6, from: 0.0, to: 1.0, log: false };
        assert_eq!(axis.ticks(), [0.0, 2e6, 4e6, 6e6]);
        let log = Axis { low: 1.0, high: 1e4, log: true, ..axis };
        assert_eq!(log.ticks(), [1.0, 10.0, 100.0, 1e3, 1e4]);
    }

    #[test]
    fn a_logarithmic_axis_has_one_in_the_middle_of_its_inverses() {
        let axis = Axis { low: 0.1, high: 10.0, from: 0.0, to: 100.0, log: true };
        assert!((axis.at(1.0) - 50.0).abs() < 1e-9);
        assert!((axis.at(1000.0) - 100.0).abs() < 1e-9);
    }
}
