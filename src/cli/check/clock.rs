//! Whether our clock agrees with LoginRadius', by the date of any answer of its API.

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::{Url, header};

use super::{Finding, web};
use crate::app;
use crate::cli::web::Trust;
use crate::config::Config;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds that may be due to the network and to dates in whole seconds.
const AGREES: i64 = 5;
/// Seconds from which on login times of the two machines cannot be compared in a log.
const DISAGREES: i64 = 60;
/// 2026-01-01: no clock can show less and be right.
const EARLIEST: Timestamp = Timestamp::constant(1_767_225_600, 0);

const REMEDY: &str = "let a time service such as chrony or systemd-timesyncd set the clock";

pub(super) async fn check(config: &Config) -> Finding {
    let about = "clock";
    let Some(tenant) = config.tenants.values().next() else { return Finding::ok(about, "nothing to compare with") };
    let theirs = date_of(&tenant.loginradius.api_url).await;
    let ours = app::now();
    match theirs {
        _ if ours < EARLIEST => Finding::problem(about, format!("shows {ours}, which is past"), REMEDY),
        Ok(theirs) => compare(ours.as_second() - theirs.as_second()),
        Err(error) => Finding::warning(
            about,
            format!("looks right, but could not be compared with LoginRadius': {error:#}"),
            "see the credentials above; run this again when the API answers",
        ),
    }
}

fn compare(ahead: i64) -> Finding {
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let found = format!("{} s {direction} LoginRadius' clock", ahead.abs());
    match ahead.abs() {
        off if off <= AGREES => Finding::ok("clock", "agrees with LoginRadius'"),
        off if off <= DISAGREES => Finding::warning("clock", found, REMEDY),
        _ => Finding::problem("clock", found, REMEDY),
    }
}

async fn date_of(api_url: &str) -> anyhow::Result<Timestamp> {
    let url = Url::parse(api_url)?;
    let answer = web::client(&url, Trust::Others, TIMEOUT)?.head(url).send().await;
    let answer = answer.map_err(reqwest::Error::without_url).context("no answer")?;
    let date = answer.headers().get(header::DATE).context("the answer has no date")?.to_str()?;
    Ok(DateTimeParser::new().parse_timestamp(date)?)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_clock_may_be_a_little_off() {
        for (ahead, state) in [(0, State::Ok), (-5, State::Ok), (6, State::Warning), (-61, State::Problem)] {
            assert!(compare(ahead).state == state, "{ahead}");
        }
    }
}
