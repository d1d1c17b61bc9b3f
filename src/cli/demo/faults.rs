//! What can go wrong at LoginRadius, one thing after another, while users go on logging in.

use std::time::Duration;

use super::figures::Figures;
use super::screen::Ink;
use super::show::{Show, in_words};
use super::story::Cast;
use crate::sandbox::{Faults, Outage};

/// Users that log in during each chapter, and how often each does.
const PLAYERS_MAX: usize = 12;
const LOGINS_EACH: usize = 2;
/// How long settling may take after a fault is over: longer than the third attempt of a delivery may wait.
const RECOVERY_MAX: Duration = Duration::from_secs(40);
/// Between the logins of a chapter.
const BETWEEN_LOGINS: Duration = Duration::from_millis(60);

/// One kind of trouble.
struct Chapter {
    title: &'static str,
    faults: Faults,
    /// How long it stays after the logins.
    stays: Duration,
    /// Somebody puts it right and has a look at a user.
    put_right_by_hand: bool,
}

fn chapters() -> Vec<Chapter> {
    let none = Faults::default;
    let chapter = |title, stays_ms, faults| Chapter {
        title,
        faults,
        stays: Duration::from_millis(stays_ms),
        put_right_by_hand: false,
    };
    vec![
        chapter("LoginRadius is slow: 200 to 500 ms a call", 0, Faults { latency_ms: 200, jitter_ms: 300, ..none() }),
        chapter(
            "Every third answer is an error or garbage (5xx, HTML, half a JSON)",
            1_200,
            Faults { server_error_percent: 15.0, disguised_percent: 8.0, garbage_percent: 10.0, ..none() },
        ),
        chapter("Too many requests: 429 to every call", 1_000, Faults { throttled_percent: 100.0, ..none() }),
        chapter("An outage: every connection is reset", 2_500, Faults { outage: Outage::Reset, ..none() }),
        chapter(
            "Answers are lost, webhooks come twice and late",
            800,
            Faults {
                answer_lost_percent: 25.0,
                webhooks_duplicated_percent: 50.0,
                webhooks_delayed_percent: 50.0,
                webhook_delay_ms: 600,
                ..none()
            },
        ),
        Chapter {
            put_right_by_hand: true,
            ..chapter(
                "The API secret was rotated, and nobody told us",
                2_000,
                Faults { secret_rotated: true, ..none() },
            )
        },
    ]
}

/// How many logins all chapters make.
pub(super) fn logins(cast: &Cast) -> usize {
    chapters().len() * LOGINS_EACH * cast.users.len().min(PLAYERS_MAX)
}

pub(super) async fn play(show: &mut Show<'_>, cast: &Cast) -> anyhow::Result<()> {
    show.screen.title("4. LoginRadius misbehaves while users go on logging in")?;
    for (number, chapter) in chapters().iter().enumerate() {
        play_chapter(show, cast, chapter, cast.logins + number * LOGINS_EACH).await?;
    }
    Ok(())
}

async fn play_chapter(show: &mut Show<'_>, cast: &Cast, chapter: &Chapter, first: usize) -> anyhow::Result<()> {
    show.screen.line(&[(Ink::Title, &format!("  {}", chapter.title))])?;
    let before = Figures::of(&show.stage.inside.metrics);
    show.stage.sandbox.set_faults(chapter.faults.clone());
    for (number, uid) in cast.users.iter().enumerate().take(PLAYERS_MAX) {
        let devices: Vec<&str> = (first..first + LOGINS_EACH).map(|login| cast.device(number, login)).collect();
        if number % 2 == 0 {
            show.login_at_once(uid, &devices)?;
        } else {
            for device in devices {
                show.login(uid, device)?;
                show.go_on(BETWEEN_LOGINS).await?;
            }
        }
        show.go_on(BETWEEN_LOGINS).await?;
    }
    show.go_on(chapter.stays).await?;
    if chapter.faults.latency_ms > 0 {
        show.until_settled(RECOVERY_MAX).await?;
    }
    show.stage.sandbox.set_faults(Faults::default());
    if chapter.put_right_by_hand {
        show.screen.line(&[(Ink::Plain, "           an operator puts it right and looks at the first user")])?;
        let uid = cast.users.first().map_or("ann", String::as_str);
        show.stage.inside.look(uid).await?;
    }
    let recovered = show.until_settled(RECOVERY_MAX).await?;
    let after = Figures::of(&show.stage.inside.metrics);
    let calls = after.calls() - before.calls();
    let failed = calls - (after.calls_ok() - before.calls_ok());
    let report = show.stage.sandbox.report(1);
    let wrong = report.wrong_revocations.len();
    let dead = show.stage.inside.waiting().await?.dead;
    let ink = if wrong == 0 && dead == 0 { Ink::Good } else { Ink::Bad };
    let over = in_words(recovered);
    show.screen.line(&[(
        ink,
        &format!("           settled {over} after it; {failed} of {calls} calls failed, {dead} lost, {wrong} wrong"),
    )])?;
    show.screen.blank()?;
    Ok(())
}
