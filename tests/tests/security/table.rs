//! Each attack under each policy: who hears it, and what is counted.

use tests::{
    frames::{Frame, token},
    mac::Mac,
    slowness,
};

use crate::{
    attacks::{Attack, Key, all},
    site::{Attacker, Counts, EVIL, Site, counts, settle},
};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nobody hears it, and it is counted.
    Dropped,
    /// Somebody hears it, and it is counted.
    Logged,
    /// Somebody hears it.
    Passes,
}

/// What a policy says to each key.
type Rule = fn(Key) -> Fate;

/// Every word of trust.
const WORDS: [&str; 6] = ["mac", "dhcp-server", "router", "multicast-router", "bpdu", "ip"];

impl Fate {
    /// What is counted of a frame: dropped, and let through.
    fn counted(self) -> (u64, u64) {
        match self {
            Self::Dropped => (1, 0),
            Self::Logged => (0, 1),
            Self::Passes => (0, 0),
        }
    }
}

/// Sends every attack, and looks at what has become of it.
#[track_caller]
fn assail(site: &Site, policy: &str, rule: impl Fn(Key) -> Fate) {
    site.set(policy);
    let _before = site.heard();
    // Each by itself, or, where it takes a second to ask what was counted, all in one.
    let one_by_one = slowness() == 1;
    let (before_all, mut all_counted) = (site.counts(), Counts::new());
    let mut sent = Vec::new();
    for attack in all(site) {
        let token = token();
        let fate = rule(attack.key);
        let (dropped, logged) = fate.counted();
        let before = (one_by_one && fate != Fate::Passes).then(|| site.counts());
        site.evil.tap.send(&attack.with(&token));
        if let Some(before) = before {
            let what = format!("{policy}: {}", attack.name);
            site.counted(&what, &before, &[(attack.reason, (dropped, logged))]);
        }
        if fate != Fate::Passes {
            let sum = all_counted.entry(attack.reason.to_owned()).or_default();
            *sum = (sum.0 + dropped, sum.1 + logged);
        }
        sent.push((attack, token, fate));
    }
    let sums: Vec<_> = all_counted.iter().map(|(reason, sum)| (reason.as_str(), *sum)).collect();
    site.counted(policy, &before_all, &sums);
    let heard = site.heard();
    let mut wrong = Vec::new();
    for (attack, token, fate) in &sent {
        let of = |frames: &[Frame]| frames.iter().any(|frame| frame.carries(token));
        let who: Vec<_> = heard.iter().filter(|h| of(&h.1)).map(|h| h.0).collect();
        let passed = !who.is_empty();
        if passed != (*fate != Fate::Dropped) || who.contains(&"far") {
            wrong.push(format!("{}: {fate:?}, and heard by {who:?}", attack.name));
        }
    }
    assert!(wrong.is_empty(), "{policy}: {wrong:#?}");
}

/// Runs the table under a policy with each kind of attacker.
#[track_caller]
fn under(policies: &[(&str, Rule)]) {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        // Its kernel has asked for its own addresses by then.
        settle(&site.evil.ns);
        for (policy, rule) in policies {
            eprintln!("{attacker:?}: {policy}");
            assail(&site, policy, rule);
        }
    }
}

#[test]
fn no_attack_of_a_child_reaches_anybody_and_each_is_counted_as_what_it_is() {
    under(&[("--security enforce", |_| Fate::Dropped)]);
}

#[test]
fn security_that_only_logs_lets_pass_and_counts_what_it_would_drop() {
    under(&[("--security log", |key| match key {
        Key::Word(_) | Key::Everything => Fate::Logged,
        Key::Alone(_) | Key::Nothing => Fate::Dropped,
    })]);
}

#[test]
fn without_security_each_attack_is_heard_but_those_that_no_switch_would_carry() {
    under(&[("--security off --trust mac,bpdu", |key| match key {
        Key::Word(_) | Key::Everything | Key::Alone(_) => Fate::Passes,
        Key::Nothing => Fate::Dropped,
    })]);
}

#[test]
fn each_word_of_trust_lets_its_own_pass_and_nothing_else() {
    for &attacker in Attacker::all() {
        let site = Site::new(attacker);
        settle(&site.evil.ns);
        for word in WORDS {
            assail(&site, &format!("--trust {word}"), |key| match key {
                Key::Word(own) | Key::Alone(own) if own == word => Fate::Passes,
                _ => Fate::Dropped,
            });
        }
        let everything = WORDS.join(",");
        assail(&site, &format!("--trust {everything}"), |key| match key {
            Key::Nothing => Fate::Dropped,
            _ => Fate::Passes,
        });
    }
}

/// What nothing lets pass would be heard, were it not dropped: the host may send it.
#[test]
fn the_taps_hear_what_no_child_may_send_when_the_host_sends_it() {
    let site = Site::new(Attacker::Veth);
    let host = site.lan.hosts[0].mac;
    let never: Vec<Attack> = all(&site).into_iter().filter(|a| a.key == Key::Nothing).collect();
    assert!(never.len() >= 8, "{never:?}");
    let sent: Vec<_> = never
        .into_iter()
        .map(|attack| {
            let token = token();
            site.host.send(&Frame { source: host, ..attack.with(&token) });
            (attack, token)
        })
        .collect();
    let heard = site.heard();
    for (attack, token) in &sent {
        let by = |who: &str| {
            let frames = &heard.iter().find(|h| h.0 == who).expect("a tap").1;
            frames.iter().any(|frame| frame.carries(token))
        };
        let (is_of_far, to) = (attack.frame.tags == [(0x8100, 20)], attack.frame.destination);
        assert!(by("the wire") || to != Mac::BROADCAST, "{}: the wire", attack.name);
        assert_eq!(by("far"), is_of_far, "{}: far", attack.name);
        assert!(!by("victim") && !by("sibling"), "{}: another VLAN", attack.name);
    }
    assert!(counts(&site.daemon, EVIL).is_empty(), "a host is not the child");
}
