use super::*;

fn event(kind: EventKind, child: &str) -> Event {
    Event { child: Some(child.into()), ..Event::new(kind, "eth0", "it happened") }
}

#[test]
fn every_kind_is_known_by_its_name() {
    for kind in EventKind::ALL {
        assert_eq!(EventKind::named(kind.name()).unwrap(), kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        let typed = <EventKind as clap::ValueEnum>::from_str(kind.name(), false);
        assert_eq!(typed, Ok(kind));
    }
    let error = EventKind::named("flood").unwrap_err().message;
    assert!(error.contains("\"flood\"") && error.contains("new_mac"), "{error}");
}

#[test]
fn one_a_second_is_told_and_stands_for_the_others() {
    let events = Events::new();
    let (mut log, begin) = (events.lock(), Instant::now());
    let at = |millis| begin + Duration::from_millis(millis);
    let mut count = |millis, kind, child: &str| {
        log.note(event(kind, child), at(millis)).map(|event| event.count)
    };
    for (millis, kind, child, told) in [
        (0, EventKind::Spoof, "web", Some(None)),
        (10, EventKind::Spoof, "web", None),
        // Another child, and another kind, have a second of their own.
        (20, EventKind::Spoof, "db", Some(None)),
        (30, EventKind::Storm, "web", Some(None)),
        (999, EventKind::Spoof, "web", None),
        (1000, EventKind::Spoof, "web", Some(Some(3))),
        (1500, EventKind::Spoof, "web", None),
    ] {
        assert_eq!(count(millis, kind, child), told, "at {millis} ms, {kind} of {child}");
    }
    assert!(log.flush(at(1999)).is_empty());
    let late: Vec<_> = log.flush(at(2000)).iter().map(|event| event.count).collect();
    assert_eq!(late, [None]);
    assert!(log.note(event(EventKind::Spoof, "web"), at(2500)).is_none());
    let late: Vec<_> = log.flush(at(3100)).iter().map(|event| event.count).collect();
    assert_eq!(late, [None], "what is told late has its second, too");
    assert!(log.flush(at(4200)).is_empty() && log.gates.is_empty());
}

#[test]
fn what_an_event_counts_itself_is_added() {
    let events = Events::new();
    let many = |count| Event { count: Some(count), ..event(EventKind::Storm, "web") };
    events.note(many(7));
    events.note(many(5));
    events.note(many(4));
    events.end();
    let counts: Vec<_> =
        events.kept(&Filter::default()).iter().filter_map(|event| event.count).collect();
    assert_eq!(counts, [7, 9]);
    let totals = events.totals();
    assert_eq!(totals.iter().find(|(kind, _)| *kind == EventKind::Storm).unwrap().1, 16);
    assert_eq!(totals.len(), EventKind::ALL.len());
}

#[test]
fn the_last_are_kept_and_filtered() {
    let events = Events::new();
    for number in 0..KEPT + 10 {
        let kind = if number % 2 == 0 { EventKind::PortUp } else { EventKind::PortDown };
        let parent = if number % 4 < 2 { "eth0" } else { "eth1" };
        let child = Some(format!("c{number}"));
        events.note(Event { child, ..Event::new(kind, parent, "") });
    }
    let all = events.kept(&Filter::default());
    assert_eq!(all.len(), KEPT);
    assert_eq!(all[0].child.as_deref(), Some("c10"));
    assert!(all.windows(2).all(|two| two[0].id + 1 == two[1].id));
    assert!(humantime::parse_rfc3339(&all[0].time).is_ok(), "{}", all[0].time);
    let last = all[KEPT - 9].id;
    for (filter, count) in [
        (Filter { parent: Some("eth0".into()), ..Filter::default() }, KEPT / 2),
        (Filter { kinds: vec![EventKind::PortUp], ..Filter::default() }, KEPT / 2),
        (Filter { kinds: vec![EventKind::Spoof], ..Filter::default() }, 0),
        (Filter { since: Some(last), ..Filter::default() }, 8),
    ] {
        assert_eq!(events.kept(&filter).len(), count, "{filter:?}");
    }
}

#[tokio::test]
async fn who_follows_hears_the_kept_ones_then_the_new_ones_and_the_end() {
    let events = Events::new();
    events.note(event(EventKind::PortUp, "web"));
    let filter = Filter { kinds: vec![EventKind::PortUp], ..Filter::default() };
    let mut new_only = events.follow(filter.clone()).unwrap();
    let mut all = events.follow(Filter { since: Some(0), ..filter }).unwrap();
    events.note(event(EventKind::PortDown, "web"));
    events.note(event(EventKind::PortUp, "db"));
    events.end();
    let child = |heard| match heard {
        Some(Heard::Event(event)) => event.child.clone(),
        _ => None,
    };
    assert_eq!(child(all.next().await).as_deref(), Some("web"));
    for follower in [&mut all, &mut new_only] {
        assert_eq!(child(follower.next().await).as_deref(), Some("db"));
        assert_eq!(follower.next().await, None);
    }
    assert!(events.follow(Filter::default()).unwrap_err().message.contains("the daemon stops"));
}

#[tokio::test]
async fn who_is_too_slow_is_told_how_many_were_missed() {
    let events = Events::new();
    let mut slow = events.follow(Filter::default()).unwrap();
    for number in 0..BEHIND + 7 {
        events.note(event(EventKind::PortUp, &format!("c{number}")));
    }
    assert_eq!(slow.next().await, Some(Heard::Missed(7)));
    let Some(Heard::Event(event)) = slow.next().await else { panic!("no event") };
    assert_eq!(event.child.as_deref(), Some("c7"));
}

#[test]
fn no_more_than_so_many_follow() {
    let events = Events::new();
    let mut followers: Vec<_> =
        (0..FOLLOWERS).map(|_| events.follow(Filter::default()).unwrap()).collect();
    let error = events.follow(Filter::default()).unwrap_err().message;
    assert!(error.contains("32 do already"), "{error}");
    followers.pop();
    assert!(events.follow(Filter::default()).is_ok());
}
