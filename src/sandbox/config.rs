//! What a sandbox is started with. Each habit of the vendor that nobody has seen is a switch here.

use std::{net::SocketAddr, time::Duration};

use clap::ValueEnum;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::faults::Faults;

/// Where `soloist sandbox` listens unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:9900";

/// Everything that can be chosen before the sandbox starts.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Where to listen. The default is any free port of the loopback address.
    pub listen: SocketAddr,
    /// Where login events are posted. `None`: nowhere.
    pub webhook: Option<String>,
    /// The one API key that is accepted.
    pub api_key: String,
    /// The one API secret that is accepted.
    pub api_secret: String,
    /// Signs the webhooks. `None`: the API secret, as the vendor does by default.
    pub webhook_secret: Option<String>,
    /// Which of the two published payload generations is sent.
    pub webhook_form: WebhookForm,
    /// Webhook requests that are open at the same time.
    pub webhook_connections: usize,
    /// Webhooks that wait for a connection. Beyond this they are lost and counted.
    pub webhook_queue_max: usize,
    /// Tokens, devices and profile ids are drawn from this, so two runs are alike.
    pub seed: u64,
    /// The instant at which the world's clock starts. `None`: the present.
    pub starts_at: Option<Timestamp>,
    /// Rows on one page of a listing.
    pub page_size: usize,
    /// A new session is missing from listings for this long.
    pub list_lag: Duration,
    /// The order in which a listing shows its rows. The vendor promises none.
    pub row_order: RowOrder,
    /// How the field names of a row are spelled.
    pub row_case: RowCase,
    /// Fraction digits of a row's `LoginDate`. Further digits are cut off, not rounded.
    pub login_date: LoginDate,
    /// What a refresh does with the row of the token that was refreshed.
    pub refresh_row: RefreshRow,
    /// Which `LoginDate` the row of a refreshed session carries.
    pub refresh_time: RefreshTime,
    /// Whether rows of expired tokens stay in listings.
    pub expired_rows: ExpiredRows,
    /// The listing of a user without sessions.
    pub empty_list: EmptyList,
    /// The listing of a user who never logged in.
    pub unknown_user: UnknownUser,
    /// The answer to invalidating a token that is no longer alive.
    pub dead_token: DeadToken,
    /// What access tokens look like.
    pub token_form: TokenForm,
    /// How long an access token lives. The vendor's default is 15 minutes; a day is handier for playing by hand.
    pub token_lifetime: Duration,
    /// Restrict Login Sharing: a login beyond so many live sessions of a user is refused. `None`: it is off.
    pub login_limit: Option<u32>,
    /// Vendor calls that are answered within any one second; more get 429. `None`: any number.
    pub requests_per_second: Option<u32>,
    /// Sessions that may ever be made, so that a runaway client cannot fill the memory.
    pub sessions_max: usize,
    /// How long a revoker may take from its first listing of a user to a revocation. See `judge`.
    pub revocation_window: Duration,
    /// Faults that are on from the start.
    pub faults: Faults,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            webhook: None,
            api_key: "sandbox-key".to_owned(),
            api_secret: "sandbox-secret".to_owned(),
            webhook_secret: None,
            webhook_form: WebhookForm::default(),
            webhook_connections: 16,
            webhook_queue_max: 65_536,
            seed: 1,
            starts_at: None,
            page_size: 100,
            list_lag: Duration::ZERO,
            row_order: RowOrder::default(),
            row_case: RowCase::default(),
            login_date: LoginDate::default(),
            refresh_row: RefreshRow::default(),
            refresh_time: RefreshTime::default(),
            expired_rows: ExpiredRows::default(),
            empty_list: EmptyList::default(),
            unknown_user: UnknownUser::default(),
            dead_token: DeadToken::default(),
            token_form: TokenForm::default(),
            token_lifetime: Duration::from_hours(24),
            login_limit: None,
            requests_per_second: None,
            sessions_max: 1_000_000,
            revocation_window: Duration::from_secs(15),
            faults: Faults::default(),
        }
    }
}

/// The payload generation of a login event.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookForm {
    /// Keys `HookName, Time, HookId, Data`; `Time` in whole seconds.
    #[default]
    #[value(name = "2019")]
    #[serde(rename = "2019")]
    Year2019,
    /// Keys `HookName, HookId, Data, Time`; `Time` in milliseconds, some keys more.
    #[value(name = "2023")]
    #[serde(rename = "2023")]
    Year2023,
}

/// The order of rows in a listing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowOrder {
    /// As in the vendor's sample.
    #[default]
    NewestFirst,
    /// The other way round.
    OldestFirst,
    /// By token, which says nothing about time.
    Scrambled,
}

/// The spelling of a row's field names.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowCase {
    /// `AccessToken`, `DeviceType`, `LoginDate`.
    #[default]
    Pascal,
    /// `accesstoken`, `deviceType`, but `Ip` and `LoginDate`, as in the vendor's first sample.
    Camel,
}

/// How precisely a row tells the login instant.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginDate {
    /// `04:09:41Z`
    Seconds,
    /// `04:09:41.28Z`
    Centiseconds,
    /// `04:09:41.281Z`
    #[default]
    Milliseconds,
    /// `04:09:41.2811644Z`
    Ticks,
}

impl LoginDate {
    /// Fraction digits that are shown.
    pub fn digits(self) -> u32 {
        match self {
            Self::Seconds => 0,
            Self::Centiseconds => 2,
            Self::Milliseconds => 3,
            Self::Ticks => 7,
        }
    }
}

/// The row of a token that has been refreshed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshRow {
    /// The old token ends and its row goes; the new token has the only row.
    #[default]
    Replace,
    /// The old token lives on until it expires, and both have a row.
    Duplicate,
}

/// The `LoginDate` of a refreshed session.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshTime {
    /// That of the login.
    #[default]
    Keep,
    /// The instant of the refresh.
    Restamp,
}

/// Rows of expired tokens.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiredRows {
    /// They leave the listing when the token expires.
    #[default]
    Pruned,
    /// They stay for ever.
    Listed,
}

/// The listing of a user who has no session.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyList {
    /// `"data": []`
    #[default]
    Array,
    /// `"data": null`
    Null,
    /// Error 1055.
    NoActiveSession,
}

/// The listing of a user who does not exist.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownUser {
    /// Error 938.
    #[default]
    Refused,
    /// The same as for a user without sessions.
    Empty,
}

/// The answer to invalidating a dead token.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadToken {
    /// Error 905, or 906 when it died of age.
    #[default]
    Refused,
    /// `"IsPosted": true`
    Posted,
}

/// What an access token looks like.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenForm {
    /// The vendor's default.
    #[default]
    Guid,
    /// The shape and the length of an encrypted JWT: five parts, more than 800 characters. It encrypts nothing.
    Jwe,
}
