//! The plot: one login after another, then some at the very same instant, then a burst with repeated webhooks.

use std::time::Duration;

use super::show::Show;
use crate::sandbox::{Faults, device_names};

/// The users whose names are told.
const NAMES: [&str; 6] = ["ann", "bob", "cleo", "dan", "eve", "finn"];
/// With more users than this, only the first few are told one by one.
const TOLD_ALL_MAX: usize = 12;
const TOLD_OF_MANY: usize = 3;
/// Users that log in between two looks at what has happened.
const USERS_BETWEEN_LOOKS: usize = 64;
/// The pauses on a terminal.
const BEAT: Duration = Duration::from_millis(220);
const ACT_BEAT: Duration = Duration::from_millis(900);
/// How long settling may take, besides what each login may.
const SETTLE_MAX: Duration = Duration::from_secs(30);
const SETTLE_A_LOGIN: Duration = Duration::from_millis(20);

/// Who logs in, and how often.
pub(super) struct Cast {
    pub(super) users: Vec<String>,
    pub(super) logins: usize,
    devices: Vec<&'static str>,
}

impl Cast {
    pub(super) fn new(users: usize, logins: usize) -> Self {
        let named = NAMES.iter().map(|name| (*name).to_owned());
        let numbered = (NAMES.len() + 1..).map(|number| format!("user{number}"));
        Self { users: named.chain(numbered).take(users).collect(), logins, devices: device_names().collect() }
    }

    pub(super) fn is_told_in_full(&self) -> bool {
        self.users.len() <= TOLD_ALL_MAX
    }

    /// The users whose every login and end is told.
    pub(super) fn told(&self) -> Vec<String> {
        let count = if self.is_told_in_full() { self.users.len() } else { TOLD_OF_MANY };
        self.users.iter().take(count).cloned().collect()
    }

    pub(super) fn logins_in_all(&self) -> usize {
        self.users.len().saturating_mul(self.logins)
    }

    /// Whether some webhooks are made late, besides those that faults make late.
    pub(super) fn has_late_webhooks(&self) -> bool {
        Acts::of(self.logins).burst > 0
    }

    /// The device of a user's login number `login`: another one each time, and another order for each user.
    pub(super) fn device(&self, user: usize, login: usize) -> &'static str {
        let at = user.wrapping_mul(3).wrapping_add(login) % self.devices.len().max(1);
        self.devices.get(at).copied().unwrap_or("phone")
    }

    pub(super) fn settle_max(&self) -> Duration {
        let logins = u32::try_from(self.logins_in_all()).unwrap_or(u32::MAX);
        SETTLE_MAX.saturating_add(SETTLE_A_LOGIN.saturating_mul(logins))
    }
}

/// How a user's logins are shared out among the acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Acts {
    one_by_one: usize,
    at_once: usize,
    burst: usize,
}

impl Acts {
    fn of(logins: usize) -> Self {
        let at_once = if logins < 2 { 0 } else { (2 + (logins - 2) / 4).min(8) };
        let one_by_one = (logins - at_once).div_ceil(2).min(3);
        Self { one_by_one, at_once, burst: logins - at_once - one_by_one }
    }
}

pub(super) async fn play(show: &mut Show<'_>, cast: &Cast) -> anyhow::Result<()> {
    let acts = Acts::of(cast.logins);
    if acts.one_by_one > 0 {
        show.screen.title("1. One login after another: the newest stays, the one before is ended")?;
        one_by_one(show, cast, acts.one_by_one).await?;
    }
    if acts.at_once > 0 {
        show.screen.title("2. Logins at the very same instant: exactly one of them stays")?;
        at_once(show, cast, acts).await?;
    }
    if acts.burst > 0 {
        show.screen.title("3. A burst, and LoginRadius sends every webhook twice, some late")?;
        burst(show, cast, acts).await?;
    }
    Ok(())
}

async fn one_by_one(show: &mut Show<'_>, cast: &Cast, rounds: usize) -> anyhow::Result<()> {
    for round in 0..rounds {
        for (number, uid) in cast.users.iter().enumerate() {
            show.login(uid, cast.device(number, round))?;
            pace(show, cast, number).await?;
        }
        show.until_settled(cast.settle_max()).await?;
    }
    show.beat(ACT_BEAT).await
}

async fn at_once(show: &mut Show<'_>, cast: &Cast, acts: Acts) -> anyhow::Result<()> {
    for (number, uid) in cast.users.iter().enumerate() {
        let logins = acts.one_by_one..acts.one_by_one + acts.at_once;
        let devices: Vec<&str> = logins.map(|login| cast.device(number, login)).collect();
        show.login_at_once(uid, &devices)?;
        pace(show, cast, number).await?;
    }
    show.until_settled(cast.settle_max()).await?;
    show.beat(ACT_BEAT).await
}

async fn burst(show: &mut Show<'_>, cast: &Cast, acts: Acts) -> anyhow::Result<()> {
    show.stage.sandbox.set_faults(Faults {
        webhooks_duplicated_percent: 100.0,
        webhooks_delayed_percent: 30.0,
        webhook_delay_ms: 250,
        ..Faults::default()
    });
    let before = acts.one_by_one + acts.at_once;
    for round in before..before + acts.burst {
        for (number, uid) in cast.users.iter().enumerate() {
            show.login(uid, cast.device(number, round))?;
            if (number + 1).is_multiple_of(USERS_BETWEEN_LOOKS) {
                show.go_on(Duration::ZERO).await?;
            }
        }
    }
    show.until_settled(cast.settle_max()).await?;
    show.stage.sandbox.set_faults(Faults::default());
    show.beat(ACT_BEAT).await
}

/// A pause after each user where all are told, else a look now and then.
async fn pace(show: &mut Show<'_>, cast: &Cast, number: usize) -> anyhow::Result<()> {
    if cast.is_told_in_full() {
        show.until_seen(BEAT, cast.settle_max()).await
    } else if number.is_multiple_of(USERS_BETWEEN_LOOKS) {
        show.go_on(Duration::ZERO).await
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_acts_share_out_every_login() {
        for logins in 1..=100 {
            let Acts { one_by_one, at_once, burst } = Acts::of(logins);
            assert_eq!(one_by_one + at_once + burst, logins);
        }
        assert_eq!(Acts::of(5), Acts { one_by_one: 2, at_once: 2, burst: 1 });
        assert_eq!(Acts::of(1), Acts { one_by_one: 1, at_once: 0, burst: 0 });
    }

    #[test]
    fn users_have_names_then_numbers() {
        let cast = Cast::new(8, 1);
        assert_eq!(
            cast.users.iter().map(String::as_str).skip(4).collect::<Vec<_>>(),
            ["eve", "finn", "user7", "user8"]
        );
    }
}
