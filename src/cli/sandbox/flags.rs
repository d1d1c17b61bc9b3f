//! The switches that a sandbox is started with. Each habit of the vendor that nobody has seen is one.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;

use crate::sandbox::{
    DEFAULT_LISTEN, DeadToken, EmptyList, ExpiredRows, Faults, LoginDate, RefreshRow, RefreshTime, RowCase, RowOrder,
    SandboxConfig, TokenForm, UnknownUser, WebhookForm,
};

#[derive(Args)]
pub(super) struct SandboxFlags {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Where login events are posted, signed
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// The one API key that is accepted
    #[arg(long, value_name = "KEY", default_value = "sandbox-key")]
    api_key: String,
    /// The one API secret that is accepted
    #[arg(long, value_name = "SECRET", default_value = "sandbox-secret")]
    api_secret: String,
    /// Signs the login events; without it the API secret does
    #[arg(long, value_name = "SECRET")]
    webhook_secret: Option<String>,
    /// The payload generation of login events
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    webhook_form: WebhookForm,
    /// Rows on one page of a listing
    #[arg(long, value_name = "ROWS", default_value = "100", help_heading = HABITS)]
    page_size: NonZeroU32,
    /// Milliseconds for which a new session is missing from listings
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = HABITS)]
    list_lag_ms: u64,
    /// The order of rows in a listing
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    row_order: RowOrder,
    /// The spelling of a row's field names
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    row_case: RowCase,
    /// How precisely a row tells the login time
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    login_date: LoginDate,
    /// What a refresh does with the old token's row
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    refresh_row: RefreshRow,
    /// The login time of a refreshed session
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    refresh_time: RefreshTime,
    /// Whether expired sessions stay listed
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    expired_rows: ExpiredRows,
    /// The listing of a user without sessions
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    empty_list: EmptyList,
    /// The listing of a user who never logged in
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    unknown_user: UnknownUser,
    /// The answer to ending a session that is no longer alive
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    dead_token: DeadToken,
    /// What access tokens look like
    #[arg(long, value_enum, default_value_t, help_heading = HABITS)]
    token_form: TokenForm,
    /// Seconds that an access token lives
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, help_heading = HABITS)]
    token_lifetime_s: u64,
    /// The vendor's own limiter: a login beyond so many live sessions of a user is refused with 1338
    #[arg(long, value_name = "SESSIONS", help_heading = HABITS)]
    login_limit: Option<NonZeroU32>,
    /// Calls answered within any one second; more get 429
    #[arg(long, value_name = "CALLS", help_heading = HABITS)]
    requests_per_second: Option<NonZeroU32>,
    /// Faults that are on from the start, as JSON; `soloist sandbox faults` changes them
    #[arg(long, value_name = "JSON", value_parser = read_faults)]
    faults: Option<Faults>,
    /// Tokens, devices and profile ids are drawn from this, so that two runs are alike
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

const HABITS: &str = "Habits of the vendor";

/// Faults as `/_sandbox/faults` takes them: what is not named is off.
pub(super) fn read_faults(json: &str) -> Result<Faults, serde_json::Error> {
    serde_json::from_str(json)
}

impl SandboxFlags {
    pub(super) fn config(self) -> SandboxConfig {
        SandboxConfig {
            listen: self.listen,
            webhook: self.webhook,
            api_key: self.api_key,
            api_secret: self.api_secret,
            webhook_secret: self.webhook_secret,
            webhook_form: self.webhook_form,
            seed: self.seed,
            page_size: usize::try_from(self.page_size.get()).unwrap_or(usize::MAX),
            list_lag: Duration::from_millis(self.list_lag_ms),
            row_order: self.row_order,
            row_case: self.row_case,
            login_date: self.login_date,
            refresh_row: self.refresh_row,
            refresh_time: self.refresh_time,
            expired_rows: self.expired_rows,
            empty_list: self.empty_list,
            unknown_user: self.unknown_user,
            dead_token: self.dead_token,
            token_form: self.token_form,
            token_lifetime: Duration::from_secs(self.token_lifetime_s),
            login_limit: self.login_limit.map(NonZeroU32::get),
            requests_per_second: self.requests_per_second.map(NonZeroU32::get),
            faults: self.faults.unwrap_or_default(),
            ..SandboxConfig::default()
        }
    }
}
