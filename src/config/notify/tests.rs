//! What `[[notify]]` must look like.

use super::super::{Config, ConfigError, ConfigSources};
use super::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn load(notify: &str) -> Result<Config, ConfigError> {
    let variables = [
        ("SOLOIST_LOGINRADIUS__API_KEY", "key"),
        ("SOLOIST_LOGINRADIUS__API_SECRET", "secret"),
        ("SOLOIST_NOTIFY", notify),
    ];
    let env = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Config::load(&ConfigSources { env, ..ConfigSources::default() })
}

fn mistakes(notify: &str) -> Vec<String> {
    load(notify).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_table_needs_three_keys_and_has_defaults_for_the_rest() {
    let config = load(&format!(r#"[{{ name = "app", url = "https://h/x", secret = "{SECRET}" }}]"#)).unwrap();
    let [endpoint] = config.notify.as_slice() else { panic!("{:?}", config.notify) };
    assert_eq!((endpoint.events.len(), endpoint.timeout), (4, Duration::from_secs(10)));
    assert!(endpoint.tenant.is_none() && !endpoint.allow_private);
    assert!(!format!("{config:?} {:?}", config.effective()).contains(SECRET));
    let shown: Vec<&str> = config.effective().iter().map(|option| option.value.as_str()).collect();
    assert!(shown.contains(&"\"https://h/…\"") && shown.contains(&"(hidden)"), "{shown:?}");
}

#[test]
fn every_mistake_is_told_at_once_and_none_quotes_a_secret() {
    let lines = mistakes(
        r#"[{ name = "A b", url = "http://h/planted", secret = "planted", tenant = "x", events = ["session"],
              format = "standard", timeout = "5", alow_private = true, issuer = "i" },
            7,
            { name = "caep", url = "https://h", format = "caep", secret_file = "planted", events = ["user.contended"],
              audience = "a", issuer = "i", signing_key_file = "/k" },
            { url = "https://u:planted@h", format = "xml" }]"#,
    );
    let expected = [
        "notify[0].alow_private (from SOLOIST_NOTIFY): is not an option; did you mean allow_private?",
        "notify[0].name = \"A b\" (from SOLOIST_NOTIFY): must be 1 to 63 of a-z, 0-9, _ and -",
        "notify[0].url = \"http://h/…\" (from SOLOIST_NOTIFY): must be an https:// address",
        "notify[0].timeout = \"5\"",
        "notify[0].tenant = \"x\" (from SOLOIST_NOTIFY): is no tenant of this configuration",
        "notify[0].events = [\"session\"] (from SOLOIST_NOTIFY): must be a list of some of session.revoked, ",
        "notify[0].issuer = \"i\" (from SOLOIST_NOTIFY): is of no use with format = \"standard\"",
        "notify[0].secret = (hidden) (from SOLOIST_NOTIFY): must be whsec_ and the base64 of 24 to 64 bytes",
        "notify[1] (from SOLOIST_NOTIFY): must be a table",
        "notify[2].secret_file = (hidden) (from SOLOIST_NOTIFY): is of no use with format = \"caep\"",
        "notify[2].events = [\"user.contended\"] (from SOLOIST_NOTIFY): must name session.revoked or",
        "notify[3].name (from SOLOIST_NOTIFY): is missing",
        "notify[3].url = ",
        "notify[3].format = \"xml\" (from SOLOIST_NOTIFY): must be one of standard, caep",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\n{expected}");
        assert!(!line.contains("planted"), "{line}");
    }
}

#[test]
fn it_is_a_list_of_tables_with_names_of_their_own() {
    let one = format!(r#"{{ name = "app", url = "https://h", secret = "{SECRET}" }}"#);
    assert!(mistakes(&format!("[{one}, {one}]"))[0].contains("is the name of another table"));
    assert!(mistakes("planted").iter().all(|line| line.ends_with("must be a list of tables: [[notify]]")));
    let env =
        |name: &str| ConfigSources { env: [(name.to_owned(), "x".to_owned())].into(), ..ConfigSources::default() };
    let apart = Config::load(&env("SOLOIST_NOTIFY__NAME")).unwrap_err().to_string();
    assert!(
        apart.contains("notify.name (from SOLOIST_NOTIFY__NAME): belongs into a list: write [[notify]]"),
        "{apart}"
    );
    let many = vec![one; ENDPOINTS_MAX + 1].join(", ");
    assert!(mistakes(&format!("[{many}]"))[0].ends_with("has more than 32 tables"));
    assert!(load("[]").unwrap().notify.is_empty());
}

#[test]
fn a_secret_has_the_length_that_standard_webhooks_asks_for() {
    let of = |bytes: usize| SecretString::from(format!("{SECRET_PREFIX}{}", STANDARD.encode(vec![7; bytes])));
    for (bytes, is_fine) in [(23, false), (24, true), (64, true), (65, false)] {
        assert_eq!(webhook_secret(&of(bytes)).is_some(), is_fine, "{bytes}");
    }
    assert!(webhook_secret(&STANDARD.encode([7; 32]).into()).is_none(), "without its prefix");
}
