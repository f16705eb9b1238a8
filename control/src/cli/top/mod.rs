//! `maclane top`: the ports that are busiest, on the whole terminal.

mod screen;
mod view;

use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::StreamExt;
use ratatui::DefaultTerminal;
use serde_json::Value;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use self::view::View;
use super::{
    args::TopArgs,
    output::{Output, understand},
    rates::rates,
};
use crate::{
    api::client::{Client, quote},
    error::{Error, ErrorKind, Result},
    model::StatsView,
    task::Task,
};

/// After so long without an answer the daemon is taken for gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one look at the counters has seen.
type Look = Result<(Instant, Value)>;

/// Shows the busiest ports until somebody wants no more.
pub(super) async fn run(client: &Client, output: Output, args: TopArgs) -> anyhow::Result<()> {
    if !output.is_terminal() || output.is_json() {
        return Err(Error::invalid(
            "cannot show `maclane top`: it takes a whole terminal, and this output is none, or is to be JSON; use `maclane stats --watch`",
        )
        .into());
    }
    let path = match &args.parent {
        Some(parent) => format!("/v1/stats?parent={}", quote(parent)),
        None => "/v1/stats".into(),
    };
    // What is wrong from the beginning is said as other commands say it.
    let (at, first) = look(client, &path).await?;
    let period = Duration::from_secs(args.interval.into());
    let mut shown = Shown { last: (at, understand(first)?), view: View::new(period) };
    shown.view.update(&rates(&shown.last.1, &shown.last.1, period));
    let (send, looks) = mpsc::channel(1);
    let _looker = Task::spawn(keep_looking(client.clone(), path, period, send));
    let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let mut screen = Screen::take()?;
    show(&mut screen.0, &mut shown, looks, signals).await
}

/// The terminal, which is as it was when this is dropped. A panic restores it, too, before it says
/// anything.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> anyhow::Result<Self> {
        ratatui::try_init().map(Self).map_err(|e| {
            ratatui::restore();
            Error::from(e).context("cannot take the terminal for `maclane top`").into()
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// What is on the screen, and the counters that it was made of.
struct Shown {
    last: (Instant, Vec<StatsView>),
    view: View,
}

impl Shown {
    /// Takes in one more look.
    fn take(&mut self, look: Look) -> anyhow::Result<()> {
        let (at, value) = match look {
            Ok(look) => look,
            Err(e) => {
                self.view.trouble = Some(trouble(&e));
                return Ok(());
            }
        };
        let now: Vec<StatsView> = understand(value)?;
        let (then, before) = &self.last;
        self.view.update(&rates(before, &now, at - *then));
        self.view.trouble = None;
        self.last = (at, now);
        Ok(())
    }
}

fn trouble(error: &Error) -> String {
    match error.kind {
        ErrorKind::NoDaemon | ErrorKind::Failed => "no daemon, trying again".into(),
        _ => format!("{error}; trying again"),
    }
}

async fn look(client: &Client, path: &str) -> Look {
    let asked = timeout(PATIENCE, client.get(path)).await;
    let value = asked.unwrap_or_else(|_| {
        let late = "the daemon does not answer; its log may say why";
        Err(Error::new(ErrorKind::NoDaemon, late))
    });
    Ok((Instant::now(), value?))
}

/// Looks again and again. A daemon that does not answer keeps nobody from pressing a key.
async fn keep_looking(client: Client, path: String, period: Duration, send: mpsc::Sender<Look>) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if send.send(look(&client, &path).await).await.is_err() {
            return;
        }
    }
}

async fn show(
    terminal: &mut DefaultTerminal,
    shown: &mut Shown,
    mut looks: mpsc::Receiver<Look>,
    [mut interrupt, mut terminate]: [Signal; 2],
) -> anyhow::Result<()> {
    let mut keys = EventStream::new();
    loop {
        terminal.draw(|frame| screen::draw(frame, &mut shown.view))?;
        tokio::select! {
            look = looks.recv() => match look {
                Some(look) => shown.take(look)?,
                None => return Ok(()),
            },
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    if !press(&mut shown.view, key) {
                        return Ok(());
                    }
                }
                // The terminal has another size.
                Some(Ok(_)) => {}
                // There is no terminal any more.
                Some(Err(_)) | None => return Ok(()),
            },
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
    }
}

/// Does what a key says; false if that is to end.
fn press(view: &mut View, key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if control => return false,
        KeyCode::Char('q') => return false,
        KeyCode::Esc if view.help => view.help = false,
        KeyCode::Char('?') => view.help = !view.help,
        KeyCode::Char('s') => view.next_sort(),
        KeyCode::Char('p') => view.pause(),
        KeyCode::Up => view.scroll(-1),
        KeyCode::Down => view.scroll(1),
        KeyCode::PageUp => view.page(-1),
        KeyCode::PageDown => view.page(1),
        KeyCode::Home => view.scroll(isize::MIN),
        KeyCode::End => view.scroll(isize::MAX),
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_the_help_says() {
        let mut view = View::new(Duration::from_secs(1));
        let mut press = |code, modifiers| press(&mut view, KeyEvent::new(code, modifiers));
        for (code, modifiers, goes_on) in [
            (KeyCode::Char('x'), KeyModifiers::NONE, true),
            (KeyCode::Char('c'), KeyModifiers::NONE, true),
            (KeyCode::Up, KeyModifiers::NONE, true),
            (KeyCode::PageDown, KeyModifiers::NONE, true),
            (KeyCode::Char('p'), KeyModifiers::NONE, true),
            (KeyCode::Char('?'), KeyModifiers::NONE, true),
            (KeyCode::Esc, KeyModifiers::NONE, true),
            (KeyCode::Char('c'), KeyModifiers::CONTROL, false),
            (KeyCode::Char('q'), KeyModifiers::NONE, false),
        ] {
            assert_eq!(press(code, modifiers), goes_on, "{code:?}");
        }
        assert!(view.is_paused() && !view.help);
    }

    #[test]
    fn a_daemon_that_is_gone_is_no_end() {
        let first = serde_json::json!([{ "parent": "eth0", "ports": [], "drops": [] }]);
        let now = Instant::now();
        let mut shown = Shown {
            last: (now, understand(first.clone()).unwrap()),
            view: View::new(Duration::from_secs(1)),
        };
        for (kind, words) in [
            (ErrorKind::NoDaemon, "no daemon, trying again"),
            (ErrorKind::Failed, "no daemon, trying again"),
            (ErrorKind::NotFound, "it is not there; trying again"),
        ] {
            shown.take(Err(Error::new(kind, "it is not there"))).unwrap();
            assert_eq!(shown.view.trouble.as_deref(), Some(words));
        }
        shown.take(Ok((now + Duration::from_secs(3), first))).unwrap();
        assert_eq!(shown.view.trouble, None);
    }
}
