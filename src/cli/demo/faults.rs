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
/// Users that are told one by one here.
const TOLD_MAX: usize = 3;
/// How long settling may take after a fault is over: longer than the third attempt of a delivery may wait.
const RECOVERY_MAX: Duration = Duration::from_secs(40);
/// Settled within this of a fault's end is at once.
const AT_ONCE: Duration = Duration::from_millis(50);
/// Between the logins of a chapter.
const BETWEEN_LOGINS: Duration = Duration::from_millis(60);

/// One kind of trouble.
struct Chapter {
    title: &'static str,
    /// What Soloist does then.
    answer: &'static str,
    faults: Faults,
    /// How long it stays after the logins.
    stays: Duration,
    /// Somebody puts it right and has a look at a user.
    put_right_by_hand: bool,
}

fn chapters() -> Vec<Chapter> {
    let none = Faults::default;
    let chapter = |title, answer, stays_ms, faults| {
        let stays = Duration::from_millis(stays_ms);
        Chapter { title, answer, faults, stays, put_right_by_hand: false }
    };
    vec![
        chapter(
            "LoginRadius is slow: 200 to 500 ms a call",
            "Users are looked at side by side, so nobody waits for the others.",
            0,
            Faults { latency_ms: 200, jitter_ms: 300, ..none() },
        ),
        chapter(
            "Every third answer is an error, a web page, or half a document",
            "A broken answer ends nobody: Soloist asks again, at once and later.",
            1_200,
            Faults { server_error_percent: 15.0, disguised_percent: 8.0, garbage_percent: 10.0, ..none() },
        ),
        chapter(
            "Too many requests: 429 to every call",
            "Soloist stays away for a while; no attempt of a message is spent.",
            1_000,
            Faults { throttled_percent: 100.0, ..none() },
        ),
        chapter(
            "An outage: every connection is reset",
            "After ten failures in a row it pauses, probes, and goes on by itself.",
            2_500,
            Faults { outage: Outage::Reset, ..none() },
        ),
        chapter(
            "Answers are lost, webhooks come twice and late",
            "A session may have ended unseen: asked again, it is already gone.",
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
                "It pauses and alarms at once; events are still accepted and wait on disk.",
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
    if cast.users.len() > TOLD_MAX {
        let told = cast.users.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>().join(", ");
        let players = cast.users.len().min(PLAYERS_MAX);
        show.screen.text(&format!("  {players} users log in twice each time; {told} are shown.\n\n"))?;
    }
    show.tell_only(TOLD_MAX);
    for (number, chapter) in chapters().iter().enumerate() {
        play_chapter(show, cast, chapter, number).await?;
    }
    Ok(())
}

async fn play_chapter(show: &mut Show<'_>, cast: &Cast, chapter: &Chapter, number: usize) -> anyhow::Result<()> {
    if number > 0 {
        show.screen.blank()?;
    }
    show.screen.line(&[(Ink::Title, &format!("  * {}", chapter.title))])?;
    show.screen.line(&[(Ink::Dim, &format!("    {}", chapter.answer))])?;
    let first = cast.logins + number * LOGINS_EACH;
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
        show.screen.line(&[(Ink::Name, &format!("{:9}an operator puts it right, and looks at a user", ""))])?;
        let uid = cast.users.first().map_or("ann", String::as_str);
        show.stage.inside.look(uid).await?;
    }
    let recovered = show.until_settled(RECOVERY_MAX).await?;
    close_chapter(show, &before, recovered).await
}

/// What the chapter has cost: time, and nothing else.
async fn close_chapter(show: &mut Show<'_>, before: &Figures, recovered: Duration) -> anyhow::Result<()> {
    let after = Figures::of(&show.stage.inside.metrics);
    let calls = after.calls().saturating_sub(before.calls());
    let failed = calls.saturating_sub(after.calls_ok().saturating_sub(before.calls_ok()));
    let wrong = show.stage.sandbox.report(1).wrong_revocations.len();
    let dead = show.stage.inside.waiting().await?.dead;
    let when = if recovered < AT_ONCE { "at once".to_owned() } else { format!("after {}", in_words(recovered)) };
    let ink = if wrong == 0 && dead == 0 { Ink::Good } else { Ink::Bad };
    let lines = [
        format!("over: all settled {when}; {failed} of {calls} calls had failed"),
        format!("      {dead} events given up, {wrong} logged out by mistake"),
    ];
    Ok(lines.iter().try_for_each(|line| show.screen.line(&[(ink, &format!("{:9}{line}", ""))]))?)
}
