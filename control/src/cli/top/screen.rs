//! How `maclane top` looks.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    symbols::bar,
    text::{Line, Span},
    widgets::{Block, Cell, Clear, Paragraph, Row as Cells, Table},
};

use super::view::{Header, Row, View};
use crate::cli::table::printable;

/// So many parents have a line of their own.
const HEADERS: usize = 6;

/// The keys, and what they do.
const KEYS: [(&str, &str); 6] = [
    ("q, Ctrl-C", "end"),
    ("Up, Down, PageUp, PageDown", "scroll"),
    ("Home, End", "to the first, to the last"),
    ("s", "sort by bits, frames or name"),
    ("p", "stand still, or go on"),
    ("?", "show this, or not"),
];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View) {
    let headers = view.headers().len().min(HEADERS) + usize::from(view.headers().len() > HEADERS);
    let headers = u16::try_from(headers).unwrap_or_default();
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(headers),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
    ]);
    let [title, parents, _, ports, foot] = areas.areas(frame.area());
    view.fit(usize::from(ports.height.saturating_sub(1)));
    frame.render_widget(title_of(view), title);
    frame.render_widget(Paragraph::new(header_lines(view.headers())), parents);
    draw_ports(frame, view, ports);
    frame.render_widget(foot_of(view), foot);
    if view.help {
        draw_help(frame);
    }
}

fn title_of(view: &View) -> Line<'_> {
    let mut spans = vec![
        Span::from("maclane top").bold(),
        format!("   every {} s, by {}", view.period.as_secs(), view.sort.name()).into(),
    ];
    if view.is_paused() {
        spans.push("   ".into());
        spans.push(Span::from(" paused ").reversed());
    }
    if let Some(trouble) = &view.trouble {
        spans.push("   ".into());
        spans.push(Span::from(format!(" {} ", printable(trouble))).fg(Color::White).bg(Color::Red));
    }
    Line::from(spans)
}

fn header_lines(headers: &[Header]) -> Vec<Line<'_>> {
    let mut lines: Vec<_> = headers.iter().take(HEADERS).map(header_line).collect();
    if headers.len() > HEADERS {
        lines.push(format!("… {} more parents", headers.len() - HEADERS).into());
    }
    lines
}

fn header_line(header: &Header) -> Line<'_> {
    let [rx_frames, rx_bytes, tx_frames, tx_bytes] = header.per_second;
    let text = format!(
        "  in {} f/s {} b/s  out {} f/s {} b/s  ",
        short(rx_frames),
        bits(rx_bytes),
        short(tx_frames),
        bits(tx_bytes)
    );
    let mut spans = vec![Span::from(printable(&header.parent)).bold(), text.into()];
    let all: u64 = header.drops.iter().map(|(_, per_second)| per_second).sum();
    if all == 0 {
        spans.push("no drops".into());
    } else {
        let reason = |(name, it): &(String, u64)| format!("{name} {}", short(*it));
        let reasons: Vec<_> = header.drops.iter().map(reason).collect();
        let text = format!("drops {}/s: {}", short(all), reasons.join(", "));
        spans.push(Span::from(text).fg(Color::Red));
    }
    Line::from(spans)
}

fn draw_ports(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let several = view.headers().len() > 1;
    let rows: Vec<&Row> = view.rows().iter().skip(view.top).take(view.room).collect();
    let longest = |text: fn(&Row) -> &str| {
        let widths = view.rows().iter().map(|row| printable(text(row)).chars().count());
        widths.max().unwrap_or_default()
    };
    let name = u16::try_from(longest(|row| &row.name).clamp(12, 22)).unwrap_or(22);
    let parent = if several { longest(|row| &row.parent).clamp(6, 10) } else { 0 };
    let parent = u16::try_from(parent).unwrap_or_default();
    let widths = [parent, name, 7, 8, 8, 8, 8].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]).skip(usize::from(!several));
    // One column is left between two; what is over is for the minute.
    let taken = parent + u16::from(several) + name + 7 + 4 * 8 + 6;
    let minute = usize::from(area.width.saturating_sub(taken));
    let cells = rows.iter().map(|row| {
        Cells::new(cells(row, view.looks, minute).into_iter().skip(usize::from(!several)))
    });
    let header =
        ["PARENT", "NAME", "KIND", "IN f/s", "IN b/s", "OUT f/s", "OUT b/s", "LAST MINUTE"];
    let header = header.into_iter().enumerate().map(|(at, name)| {
        Line::from(name).alignment(if (3..7).contains(&at) {
            Alignment::Right
        } else {
            Alignment::Left
        })
    });
    let header = Cells::new(header.skip(usize::from(!several)))
        .style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_widget(Table::new(cells, widths).header(header), area);
}

fn cells(row: &Row, looks: usize, minute: usize) -> Vec<Cell<'static>> {
    let [rx_frames, rx_bytes, tx_frames, tx_bytes] = row.per_second;
    let right = |text: String| Cell::from(Line::from(text).right_aligned());
    vec![
        Cell::from(printable(&row.parent)),
        Cell::from(printable(&row.name)),
        Cell::from(row.kind.clone()),
        right(short(rx_frames)),
        right(bits(rx_bytes)),
        right(short(tx_frames)),
        right(bits(tx_bytes)),
        Cell::from(sparkline(&row.minute, looks, minute)).style(Style::new().fg(Color::Cyan)),
    ]
}

/// A minute of so many looks as bars, the newest to the right; the highest one is a whole character. A
/// character stands for as many looks as it takes for the minute to fit.
fn sparkline(values: &[u64], looks: usize, width: usize) -> String {
    let each = looks.div_ceil(width.max(1)).max(1);
    let mean = |looks: &[u64]| looks.iter().sum::<u64>() / looks.len().max(1) as u64;
    let mut values: Vec<u64> = values.rchunks(each).take(width).map(mean).collect();
    values.reverse();
    let most = values.iter().copied().max().unwrap_or_default().max(1);
    let bars = bar::NINE_LEVELS;
    let levels = [
        bars.one_eighth,
        bars.one_quarter,
        bars.three_eighths,
        bars.half,
        bars.five_eighths,
        bars.three_quarters,
        bars.seven_eighths,
        bars.full,
    ];
    let level = |value: &u64| {
        if *value == 0 {
            return bars.empty;
        }
        let eighths = (u128::from(*value) * 8).div_ceil(u128::from(most));
        levels[usize::try_from(eighths).unwrap_or(8).clamp(1, 8) - 1]
    };
    let empty = " ".repeat(width - values.len());
    empty + &values.iter().map(level).collect::<String>()
}

fn foot_of(view: &View) -> Line<'static> {
    let all = view.rows().len();
    let last = (view.top + view.room).min(all);
    let first = (view.top + 1).min(last);
    Line::from(format!("ports {first} to {last} of {all}   q ends, s sorts, p pauses, ? helps"))
        .dim()
}

fn draw_help(frame: &mut Frame<'_>) {
    let lines: Vec<Line<'_>> =
        KEYS.iter().map(|(key, what)| Line::from(format!(" {key:27} {what} "))).collect();
    let (width, height) = (60, u16::try_from(KEYS.len()).unwrap_or_default() + 2);
    let all = frame.area();
    let area = Rect {
        x: all.width.saturating_sub(width) / 2,
        y: all.height.saturating_sub(height) / 2,
        width: width.min(all.width),
        height: height.min(all.height),
    };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), area);
}

fn bits(bytes: u64) -> String {
    short(bytes.saturating_mul(8))
}

/// A number in at most six characters.
fn short(number: u64) -> String {
    const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if number < 10_000 {
        return number.to_string();
    }
    let (mut tenths, mut units) = (number / 100, UNITS.iter());
    let mut unit = units.next();
    while tenths >= 10_000 {
        tenths /= 1000;
        unit = units.next();
    }
    format!("{}.{}{}", tenths / 10, tenths % 10, unit.copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::view::tests::parent, *};

    /// What a terminal of this size shows, line by line.
    fn shown(view: &mut View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| -> String {
            (0..width).map(|x| buffer.cell((x, y)).map_or(" ", |cell| cell.symbol())).collect()
        };
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    fn view(parents: &[ParentPorts<'_>]) -> View {
        let mut view = View::new(Duration::from_secs(1));
        let all: Vec<_> = parents.iter().map(|(name, ports)| parent(name, ports)).collect();
        view.update(&all);
        view.update(&all);
        view
    }

    type ParentPorts<'a> = (&'a str, &'a [(&'a str, u64)]);

    #[test]
    fn a_small_terminal_shows_everything() {
        let mut view = view(&[("eth0", &[("wire", 0), ("web", 1_234_500), ("db", 800)])]);
        let lines = shown(&mut view, 80, 24);
        let expected = [
            "maclane top   every 1 s, by bits",
            "eth0  in 12.3k f/s 9.8M b/s  out 6176 f/s 4.9M b/s  drops 9/s: source_mac 7, unk",
            "",
            "NAME         KIND      IN f/s   IN b/s  OUT f/s  OUT b/s LAST MINUTE",
        ];
        for (line, expected) in lines.iter().zip(expected) {
            assert_eq!(line, expected);
        }
        assert!(
            lines[4].starts_with("web          macvlan    12.3k     9.8M     6172     4.9M"),
            "{}",
            lines[4]
        );
        assert!(lines[4].ends_with(" █"), "{}", lines[4]);
        assert!(lines[5].starts_with("db ") && lines[6].starts_with("wire "), "{lines:#?}");
        assert_eq!(lines[23], "ports 1 to 3 of 3   q ends, s sorts, p pauses, ? helps");
    }

    #[test]
    fn several_parents_have_a_column_and_rows_scroll() {
        let names: Vec<String> = (0..40).map(|number| format!("c{number:02}")).collect();
        let ports: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(1..).collect();
        let parents = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| (name, &ports[..]));
        let mut view = view(&parents);
        view.next_sort();
        view.next_sort();
        let lines = shown(&mut view, 80, 24);
        assert_eq!(lines[7], "… 2 more parents");
        assert!(lines[9].starts_with("PARENT NAME"), "{lines:#?}");
        assert!(lines[10].starts_with("a      c00 "), "{lines:#?}");
        assert_eq!(lines[23].split("   ").next().unwrap(), "ports 1 to 13 of 320");
        view.page(1);
        let lines = shown(&mut view, 80, 24);
        assert!(lines[10].starts_with("a      c13 "), "{lines:#?}");
        view.scroll(isize::MAX);
        let lines = shown(&mut view, 80, 24);
        assert!(lines[22].starts_with("h      c39 "), "{lines:#?}");
    }

    #[test]
    fn what_is_the_matter_is_at_the_top_and_the_keys_in_the_middle() {
        let mut view = view(&[("eth0", &[("wire", 0)])]);
        view.trouble = Some("no daemon, trying again\u{1b}".into());
        view.pause();
        view.help = true;
        let lines = shown(&mut view, 80, 24);
        assert!(lines[0].contains(" paused    ") && lines[0].contains("trying again\\u{1b}"));
        let text = lines.join("\n");
        for (key, what) in KEYS {
            assert!(text.contains(key) && text.contains(what), "{text}");
        }
        // There may be hardly any room.
        for (width, height) in [(1, 1), (10, 3), (200, 60)] {
            shown(&mut view, width, height);
        }
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0, "0"),
            (9999, "9999"),
            (10_000, "10.0k"),
            (999_999, "999.9k"),
            (1_000_000, "1.0M"),
            (12_345_678_901, "12.3G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn a_minute_ends_with_now() {
        for (values, looks, width, text) in [
            (&[0, 1, 50, 100][..], 6, 6, "   ▁▄█"),
            (&[0, 1, 50, 100], 60, 60, "   ▁▄█"),
            (&[0, 1, 50, 100], 4, 2, " █"),
            (&[0, 20, 50, 50], 3, 2, "▂█"),
            (&[0, 0], 3, 3, "   "),
            (&[], 60, 2, "  "),
            (&[1], 60, 0, ""),
        ] {
            let shown = sparkline(values, looks, width);
            assert_eq!(shown.trim_start(), text.trim_start(), "{values:?} in {width}");
            assert_eq!(shown.chars().count(), width, "{values:?} in {width}");
        }
    }
}
