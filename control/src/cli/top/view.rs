//! What `maclane top` shows: rows, their last minute, and what of it is wanted.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::cli::rates::{Four, ParentRates};

/// How far back a row looks.
const MINUTE: Duration = Duration::from_secs(60);

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Who has most bits a second.
    Bits,
    /// Who has most frames a second.
    Frames,
    /// By parent, then by name.
    Name,
}

impl Sort {
    /// What it is called on the screen.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bits => "bits",
            Self::Frames => "frames",
            Self::Name => "name",
        }
    }
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its parent.
    pub(super) parent: String,
    /// `wire`, `host`, or the child's name.
    pub(super) name: String,
    /// `wire`, `host`, `macvlan` or `veth`.
    pub(super) kind: String,
    /// What passes each second: frames and bytes in, frames and bytes out.
    pub(super) per_second: Four,
    /// Bytes a second, both ways, of the last minute, the oldest first.
    pub(super) minute: Vec<u64>,
}

impl Row {
    fn frames(&self) -> u64 {
        self.per_second[0].saturating_add(self.per_second[2])
    }

    fn bytes(&self) -> u64 {
        bytes(&self.per_second)
    }
}

fn bytes(per_second: &Four) -> u64 {
    per_second[1].saturating_add(per_second[3])
}

/// A parent, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Its name.
    pub(super) parent: String,
    /// What passes all its ports each second.
    pub(super) per_second: Four,
    /// Frames dropped each second, by reason, the most first; those that are not dropped now are left
    /// out.
    pub(super) drops: Vec<(String, u64)>,
}

/// What one moment looks like.
#[derive(Clone, Debug, Default)]
struct Moment {
    headers: Vec<Header>,
    rows: Vec<Row>,
}

/// Parent, port and name: whoever gets the port of another begins anew.
type Key = (String, u16, String);

/// Everything that the screen is made of.
#[derive(Debug)]
pub(super) struct View {
    now: Moment,
    /// What is shown instead while it is paused.
    paused: Option<Moment>,
    minutes: HashMap<Key, VecDeque<u64>>,
    /// How many looks a minute has.
    pub(super) looks: usize,
    /// How often it looks.
    pub(super) period: Duration,
    /// What comes first.
    pub(super) sort: Sort,
    /// What keeps it from looking.
    pub(super) trouble: Option<String>,
    /// Whether the keys are shown.
    pub(super) help: bool,
    /// The first row that is shown.
    pub(super) top: usize,
    /// How many rows there was room for.
    pub(super) room: usize,
}

impl View {
    /// A view of nothing yet.
    pub(super) fn new(period: Duration) -> Self {
        let looks = MINUTE.as_millis() / period.as_millis().max(1);
        Self {
            now: Moment::default(),
            paused: None,
            minutes: HashMap::new(),
            looks: usize::try_from(looks).unwrap_or(usize::MAX).max(2),
            period,
            sort: Sort::Bits,
            trouble: None,
            help: false,
            top: 0,
            room: 1,
        }
    }

    /// Takes in what was seen last.
    pub(super) fn update(&mut self, rates: &[ParentRates]) {
        let mut minutes = std::mem::take(&mut self.minutes);
        let mut rows = Vec::new();
        for it in rates {
            for port in &it.ports {
                let key = (it.parent.clone(), port.port, port.name.clone());
                let mut minute = minutes.remove(&key).unwrap_or_default();
                minute.push_back(bytes(&port.per_second));
                while minute.len() > self.looks {
                    minute.pop_front();
                }
                rows.push(Row {
                    parent: it.parent.clone(),
                    name: port.name.clone(),
                    kind: port.kind.clone(),
                    per_second: port.per_second,
                    minute: minute.iter().copied().collect(),
                });
                self.minutes.insert(key, minute);
            }
        }
        self.now = Moment { headers: rates.iter().map(header).collect(), rows };
        self.now.sort(self.sort);
    }

    fn shown(&self) -> &Moment {
        self.paused.as_ref().unwrap_or(&self.now)
    }

    /// The parents.
    pub(super) fn headers(&self) -> &[Header] {
        &self.shown().headers
    }

    /// All ports, in their order.
    pub(super) fn rows(&self) -> &[Row] {
        &self.shown().rows
    }

    /// Whether it stands still.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Stands still, or goes on with what is now.
    pub(super) fn pause(&mut self) {
        self.paused = match self.paused {
            Some(_) => None,
            None => Some(self.now.clone()),
        };
    }

    /// Sorts by the next thing.
    pub(super) fn next_sort(&mut self) {
        self.sort = match self.sort {
            Sort::Bits => Sort::Frames,
            Sort::Frames => Sort::Name,
            Sort::Name => Sort::Bits,
        };
        self.now.sort(self.sort);
        if let Some(paused) = &mut self.paused {
            paused.sort(self.sort);
        }
    }

    /// Moves the first row that is shown.
    pub(super) fn scroll(&mut self, rows: isize) {
        self.top = self.top.saturating_add_signed(rows).min(self.last_top());
    }

    /// The same by as many rows as there is room for.
    pub(super) fn page(&mut self, pages: isize) {
        let room = isize::try_from(self.room).unwrap_or(isize::MAX);
        self.scroll(pages.saturating_mul(room));
    }

    /// Says how many rows there is room for: the last one is not scrolled away.
    pub(super) fn fit(&mut self, room: usize) {
        self.room = room.max(1);
        self.top = self.top.min(self.last_top());
    }

    fn last_top(&self) -> usize {
        self.rows().len().saturating_sub(self.room)
    }
}

impl Moment {
    fn sort(&mut self, sort: Sort) {
        let by_name = |row: &Row| (row.parent.clone(), row.name.clone());
        match sort {
            Sort::Bits => self.rows.sort_by_cached_key(|row| (Reverse(row.bytes()), by_name(row))),
            Sort::Frames => {
                self.rows.sort_by_cached_key(|row| (Reverse(row.frames()), by_name(row)));
            }
            Sort::Name => self.rows.sort_by_cached_key(by_name),
        }
    }
}

fn header(rates: &ParentRates) -> Header {
    let add = |sum: Four, one: &Four| std::array::from_fn(|at| sum[at].saturating_add(one[at]));
    let drops = rates.drops.iter().filter(|drops| drops.per_second > 0);
    let mut drops: Vec<_> = drops.map(|drops| (drops.reason.clone(), drops.per_second)).collect();
    drops.sort_by_key(|(_, per_second)| Reverse(*per_second));
    Header {
        parent: rates.parent.clone(),
        per_second: rates.ports.iter().map(|port| &port.per_second).fold([0; 4], add),
        drops,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::rates::{DropRates, PortRates};

    /// A parent whose ports have these names and bytes a second, 100 for each frame.
    pub(in crate::cli::top) fn parent(name: &str, ports: &[(&str, u64)]) -> ParentRates {
        let port = |(number, (name, bytes)): (u16, &(&str, u64))| PortRates {
            port: number,
            name: (*name).into(),
            kind: "macvlan".into(),
            per_second: [bytes / 100, *bytes, bytes / 200, bytes / 2],
        };
        ParentRates {
            parent: name.into(),
            ports: (0..).zip(ports).map(port).collect(),
            drops: [("runt", 0), ("unknown", 2), ("source_mac", 7)]
                .map(|(reason, per_second)| DropRates {
                    reason: reason.into(),
                    meaning: String::new(),
                    packets: 9,
                    per_second,
                })
                .into(),
        }
    }

    fn names(view: &View) -> Vec<&str> {
        view.rows().iter().map(|row| row.name.as_str()).collect()
    }

    #[test]
    fn rows_are_sorted_and_keep_their_minute() {
        let mut view = View::new(Duration::from_secs(20));
        for round in 1..=5 {
            view.update(&[parent("eth0", &[("a", 100), ("b", round * 1000), ("c", 300)])]);
        }
        assert_eq!(names(&view), ["b", "c", "a"]);
        assert_eq!(view.rows()[0].minute, [4500, 6000, 7500]);
        view.next_sort();
        assert_eq!((view.sort, names(&view)), (Sort::Frames, vec!["b", "c", "a"]));
        view.next_sort();
        assert_eq!((view.sort, names(&view)), (Sort::Name, vec!["a", "b", "c"]));
        // Whoever gets the port of another begins anew.
        view.update(&[parent("eth0", &[("a", 100), ("d", 10), ("c", 300)])]);
        assert_eq!(names(&view), ["a", "c", "d"]);
        assert_eq!(view.rows()[2].minute, [15]);
        let header = &view.headers()[0];
        assert_eq!(header.drops, [("source_mac".to_owned(), 7), ("unknown".to_owned(), 2)]);
        assert_eq!(header.per_second[1], 410);
    }

    #[test]
    fn a_pause_shows_what_was_then() {
        let mut view = View::new(Duration::from_secs(1));
        view.update(&[parent("eth0", &[("a", 100), ("b", 200)])]);
        view.pause();
        view.update(&[parent("eth0", &[("a", 900), ("b", 200)])]);
        assert_eq!((names(&view), view.rows()[0].per_second[1]), (vec!["b", "a"], 200));
        view.pause();
        assert_eq!((names(&view), view.rows()[0].per_second[1]), (vec!["a", "b"], 900));
        assert_eq!(view.rows()[0].minute.len(), 2, "nothing was missed");
    }

    #[test]
    fn the_last_row_is_not_scrolled_away() {
        let mut view = View::new(Duration::from_secs(1));
        let ports: Vec<(&str, u64)> = ["a"; 30].into_iter().zip(0..).collect();
        view.update(&[parent("eth0", &ports)]);
        view.fit(10);
        for (step, top) in [(1, 1), (-2, 0), (isize::MAX, 20), (isize::MIN, 0)] {
            view.scroll(step);
            assert_eq!(view.top, top, "after {step}");
        }
        for (page, top) in [(1, 10), (1, 20), (1, 20), (-1, 10)] {
            view.page(page);
            assert_eq!(view.top, top);
        }
        view.fit(25);
        assert_eq!(view.top, 5);
    }
}
