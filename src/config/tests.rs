//! What a configuration promises to the operator who writes it.

use std::io::Write as _;

use secrecy::ExposeSecret as _;

use super::*;
use crate::policy::written;

const KEY: (&str, &str) = ("SOLOIST_LOGINRADIUS__API_KEY", "test-key");
const SECRET: (&str, &str) = ("SOLOIST_LOGINRADIUS__API_SECRET", "planted-secret");

fn load(toml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(toml.as_bytes()).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::load(&ConfigSources { file: Some(file.path().to_owned()), default_file: None, env })
}

/// The lines of the error, without the name of the temporary file.
fn mistakes(toml: &str, env: &[(&str, &str)]) -> Vec<String> {
    let error = load(toml, env).unwrap_err();
    let line = |mistake: &Mistake| match &mistake.origin {
        Some(Origin::File(file)) => mistake.to_string().replace(&file.display().to_string(), "file"),
        _ => mistake.to_string(),
    };
    error.0.iter().map(line).collect()
}

#[test]
fn two_secrets_are_enough() {
    let config = load("", &[KEY, SECRET]).unwrap();
    let tenant = &config.tenants[&TenantId::default_tenant()];
    assert_eq!(config.webhook.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.worker.step_deadline, Duration::from_secs(15));
    assert_eq!(tenant.loginradius.webhook_secrets[0].expose_secret(), "planted-secret");
    assert_eq!(tenant.loginradius.requests_per_second, Rate::PerSecond(NonZeroU32::new(25).unwrap()));
}

#[test]
fn every_default_is_read_and_listed() {
    let config = load("", &[KEY, SECRET]).unwrap();
    let listed: Vec<&str> = config.effective().iter().map(|option| option.path.as_str()).collect();
    for option in options() {
        assert!(listed.contains(&option.path), "{}", option.path);
    }
    assert_eq!(listed.len(), options().len());
}

#[test]
fn five_mistakes_give_five_lines() {
    let toml =
        "[webhook]\nlisten = \"y\"\nbody_timeout = \"5\"\n[worker]\nconcurrency = 0\n[admin]\nlisten = \"0.0.0.0:1\"";
    let error = load(toml, &[KEY, SECRET, ("SOLOIST_TELEMETRY__LOG_FORMAT", "xml")]).unwrap_err();
    assert_eq!(error.to_string().lines().count(), 1 + 5, "{error}");
}

#[test]
fn a_line_says_what_where_and_how_to_put_it_right() {
    let env = [KEY, SECRET, ("SOLOIST_WEBHOOK__LISTEN", "y")];
    let expected =
        r#"webhook.listen = "y" (from SOLOIST_WEBHOOK__LISTEN): must be an address and port such as 127.0.0.1:8080"#;
    assert_eq!(mistakes("", &env), [expected]);
    let expected = "worker.concurrency = 0 (from file): must be a whole number from 1 to 10000";
    assert_eq!(mistakes("worker.concurrency = 0", &[KEY, SECRET]), [expected]);
}

#[test]
fn a_variable_wins_over_the_file() {
    let toml = "data_dir = \"/from/file\"\n[worker]\nconcurrency = 7";
    let config = load(toml, &[KEY, SECRET, ("SOLOIST_WORKER__CONCURRENCY", "9")]).unwrap();
    assert_eq!((config.data_dir, config.worker.concurrency), ("/from/file".into(), 9));
}

#[test]
fn without_credentials_the_one_mistake_says_what_to_set() {
    let lines = mistakes("", &[]);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("SOLOIST_LOGINRADIUS__API_KEY"), "{lines:?}");
    assert_eq!(mistakes("", &[KEY]), ["loginradius.api_secret: is missing; the tenant cannot start without it"]);
}

#[test]
fn a_secret_can_be_in_a_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"from-a-file\n").unwrap();
    let path = file.path().to_str().unwrap();
    let in_file = ("SOLOIST_LOGINRADIUS__API_SECRET_FILE", path);
    let config = load("", &[KEY, in_file]).unwrap();
    let secrets = &config.tenants[&TenantId::default_tenant()].loginradius;
    assert_eq!(secrets.api_secret.expose_secret(), "from-a-file");

    let lines = mistakes("", &[KEY, SECRET, in_file]);
    assert!(lines[0].ends_with("is given beside loginradius.api_secret; give one of them"), "{lines:?}");
    let lines = mistakes("", &[KEY, ("SOLOIST_LOGINRADIUS__API_SECRET_FILE", "/nowhere")]);
    assert!(lines.len() == 1 && lines[0].contains("cannot be read"), "{lines:?}");
}

#[test]
fn an_unknown_name_brings_the_nearest_known_one() {
    let env = [KEY, SECRET, ("SOLOIST_WEBHOOK_LISTEN", "x"), ("SOLOIST_COLOUR", "x")];
    let toml = "[webhook]\nlistn = \"x\"\n[tenants.acme.loginradius]\napi_key = \"k\"\napi_secrt = \"planted-typo\"\napi_secret = \"s\"";
    assert_eq!(
        mistakes(toml, &env),
        [
            "colour (from SOLOIST_COLOUR): is not an option",
            "tenants.acme.loginradius.api_secrt (from file): is not an option; did you mean tenants.acme.loginradius.api_secret?",
            "webhook.listn (from file): is not an option; did you mean webhook.listen?",
            "webhook_listen (from SOLOIST_WEBHOOK_LISTEN): is not an option; did you mean SOLOIST_WEBHOOK__LISTEN?",
        ]
    );
}

#[test]
fn nothing_that_is_written_is_passed_over() {
    let quoted = mistakes("\"webhook.listen\" = \"x\"", &[KEY, SECRET]);
    assert_eq!(quoted, ["webhook.listen (from file): is not an option; did you mean webhook.listen?"]);
    let infinite = mistakes("[policy]\nlimit = 2\ncanary_percent = inf", &[KEY, SECRET]);
    assert!(infinite.len() == 1 && infinite[0].starts_with("policy.canary_percent"), "{infinite:?}");
}

#[test]
fn a_name_can_steer_no_terminal() {
    let lines = mistakes("\"a\\u001b[31m\\n\" = 1", &[KEY, SECRET, ("SOLOIST_B\u{7}\n", "x")]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:?}");
}

#[test]
fn a_section_is_a_table() {
    assert_eq!(mistakes("webhook = 5", &[KEY, SECRET]), ["webhook (from file): must be a table"]);
    assert!(load("[webhook]\n[tenants]", &[KEY, SECRET]).is_ok());
}

#[test]
fn no_secret_is_printed() {
    let toml = "[loginradius]\napi_url = \"https://u:planted@h\"\napi_key = [\"planted\"]\napi_secert = \"planted\"\n\
                webhook_secrets = [\"planted\", \"\"]";
    let error = load(toml, &[SECRET]).unwrap_err();
    assert_eq!(error.0.len(), 4, "{error}");
    let syntax = load("[loginradius]\napi_secret = \"planted\" \"planted\"\n", &[]).unwrap_err();
    let not_a_path = load("", &[KEY, ("SOLOIST_LOGINRADIUS__API_SECRET_FILE", "planted")]).unwrap_err();
    let config = load("", &[KEY, SECRET]).unwrap();
    let shown = format!(
        "{error} {error:?} {not_a_path} {not_a_path:?} {syntax} {syntax:?} {config:?} {:?}",
        config.effective()
    );
    assert!(!shown.contains("planted"), "{shown}");
    assert!(syntax.to_string().contains("line 2"), "{syntax}");
}

#[test]
fn the_private_listener_stays_on_this_machine_unless_told() {
    let open = "[admin]\nlisten = \"0.0.0.0:8081\"\n";
    assert!(mistakes(open, &[KEY, SECRET])[0].contains("admin.insecure = true"));
    assert!(load(&format!("{open}insecure = true"), &[KEY, SECRET]).is_ok());
    let same = "[admin]\nlisten = \"127.0.0.1:8080\"";
    assert!(mistakes(same, &[KEY, SECRET])[0].ends_with("must differ from webhook.listen"));
}

#[test]
fn a_certificate_needs_its_key() {
    let lines = mistakes("[webhook]\ntls_cert = \"c.pem\"", &[KEY, SECRET]);
    assert_eq!(lines, ["webhook.tls_key: is missing; webhook.tls_cert is of no use without it"]);
}

#[test]
fn tenants_have_the_same_two_tables() {
    let toml =
        "[policy]\nlimit = 2\n[tenants.acme.policy]\nlimit = 3\nbuckets = { by = \"os\", limits = { ios = 1 } }\n";
    let env = [
        ("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_KEY", "k"),
        ("SOLOIST_TENANTS__ACME__LOGINRADIUS__API_SECRET", "s"),
        ("SOLOIST_TENANTS__ACME__POLICY__LIMIT", "4"),
        ("SOLOIST_POLICY__MODE", "observe"),
    ];
    let config = load(toml, &env).unwrap();
    let (id, tenant) = config.tenants.iter().next().unwrap();
    assert_eq!((config.tenants.len(), id.as_str(), tenant.policy_path.as_str()), (1, "acme", "tenants.acme.policy"));
    assert_eq!(config.policy, serde_json::json!({ "limit": 2, "mode": "observe" }));
    let expected = serde_json::json!({ "limit": 4, "buckets": { "by": "os", "limits": { "ios": 1 } } });
    assert_eq!(tenant.policy, expected);
}

#[test]
fn a_tenant_needs_a_name_and_credentials() {
    let toml = "[tenants.acme]\n[tenants.default]\n[tenants.\"A B\"]";
    let lines = mistakes(toml, &[]);
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].starts_with("tenants.A B (from file): ") && lines[0].contains("a-z"), "{lines:?}");
    assert!(lines[1].starts_with("tenants.acme.loginradius.api_key: is missing"), "{lines:?}");
    assert!(lines[3].starts_with("tenants.default"), "{lines:?}");
}

#[test]
fn keys_of_apps_that_clash_or_are_for_no_tenant_are_mistakes() {
    let key = |name: &str, digit: &str, more: &str| {
        format!("[[api.keys]]\nname = \"{name}\"\nsha256 = \"{}\"\nscopes = [\"verdict\"]\n{more}\n", digit.repeat(64))
    };
    let written = ["junk", "shop", "news", "shop"].map(|name| {
        let digit = if name == "junk" { "x" } else { "a" };
        key(name, digit, if name == "news" { "tenant = \"acmee\"" } else { "" })
    });
    let acme = "[tenants.acme.loginradius]\napi_key = \"k\"\napi_secret = \"s\"\n";
    let lines = mistakes(&format!("{}{acme}", written.concat()), &[]);
    for (line, expected) in lines.iter().zip([
        "[0] needs sha256",
        "[2] has the sha256 of [1]",
        "[2] is for tenant `acmee`, which is not configured: correct its name",
        "[3] has the name of [1]: give each key its own",
        "[3] has the sha256 of [1]",
    ]) {
        assert!(line.starts_with("api.keys = ") && line.contains(&format!("(from file): {expected}")), "{line}");
    }
    assert_eq!(lines.len(), 5, "{lines:?}");
    let good = key("shop", "a", "tenant = \"acme\"") + &key("news", "b", "tenant = \"default\"") + &key("all", "c", "");
    assert_eq!(load(&format!("{good}{acme}"), &[KEY, SECRET]).unwrap().api.keys.len(), 3);
    let without_default = mistakes(&format!("{good}{acme}"), &[]);
    assert!(
        without_default.len() == 1 && without_default[0].contains("[1] is for tenant `default`"),
        "{without_default:?}"
    );
}

#[test]
fn a_named_file_must_exist_and_the_usual_one_need_not() {
    let env: BTreeMap<String, String> = [KEY, SECRET].map(|(name, value)| (name.into(), value.into())).into();
    let nowhere = Some(PathBuf::from("/nowhere/soloist.toml"));
    let usual = ConfigSources { default_file: nowhere.clone(), env: env.clone(), ..Default::default() };
    assert!(Config::load(&usual).is_ok());
    let named = ConfigSources { file: nowhere, env: env.clone(), ..Default::default() };
    assert!(Config::load(&named).unwrap_err().to_string().contains("/nowhere/soloist.toml: cannot be read"));
    let mut env = env;
    env.insert("SOLOIST_CONFIG".into(), "/nowhere/too.toml".into());
    assert!(Config::load(&ConfigSources { env, ..Default::default() }).is_err());
}

const EXAMPLE: &str = include_str!("../../deploy/soloist.example.toml");

/// The example with what is commented out: settings have no space after their `#`, prose has one.
fn example_in_full() -> String {
    let uncommented = |line| str::strip_prefix(line, "#").filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
    EXAMPLE.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

/// Each setting of a text, by the name that the table has for it.
fn settings_in(toml: &str) -> BTreeMap<String, Value> {
    let table: toml::Table = toml::from_str(toml).unwrap();
    let Value::Object(sections) = serde_json::to_value(table).unwrap() else { unreachable!("a table") };
    let mut settings = BTreeMap::new();
    for (section, value) in sections.into_iter().filter(|(section, _)| section != "tenants") {
        match value {
            Value::Object(keys) => keys.into_iter().for_each(|(key, value)| {
                let path = format!("{section}.{key}");
                match value {
                    Value::Object(inner) if options().iter().all(|option| option.path != path) => {
                        settings.extend(inner.into_iter().map(|(key, value)| (format!("{path}.{key}"), value)));
                    }
                    value => _ = settings.insert(path, value),
                }
            }),
            value => _ = settings.insert(section, value),
        }
    }
    settings
}

#[test]
fn the_example_shows_every_default() {
    let defaults = options().iter().filter_map(|option| Some((option.path.to_owned(), option.default_value()?)));
    assert_eq!(settings_in(EXAMPLE), defaults.collect());
}

#[test]
fn the_example_shows_every_option_and_no_other() {
    let names: Vec<String> = settings_in(&example_in_full()).into_keys().collect();
    let mut known: Vec<&str> = options().iter().map(|option| option.path).collect();
    known.sort_unstable();
    assert_eq!(names, known);
}

#[test]
fn the_example_explains_every_option() {
    let mut before = "";
    for line in EXAMPLE.lines() {
        let is_setting = line.contains(" = ") && !line.starts_with('#');
        assert!(!is_setting || !(before.is_empty() || before.starts_with('[')), "no comment above: {line}");
        before = line;
    }
}

#[test]
fn the_example_and_two_secrets_are_a_configuration() {
    let config = load(EXAMPLE, &[KEY, SECRET]).unwrap();
    assert_eq!(config.tenants.len(), 1);
    let config = load(&example_in_full(), &[]).unwrap();
    assert_eq!(config.tenants.len(), 2);
    assert_eq!(config.policy["exemptions"][0]["email_domain"], "example.com");
}

#[test]
fn a_policy_that_locks_people_out_is_not_enforced_without_a_budget() {
    let rejecting = mistakes("[policy]\nstrategy = \"reject_newest\"", &[KEY, SECRET]);
    assert!(rejecting.len() == 1 && rejecting[0].starts_with("policy.strategy"), "{rejecting:?}");
    assert!(load("[policy]\nstrategy = \"reject_newest\"\nmode = \"observe\"", &[KEY, SECRET]).is_ok());
}

#[test]
fn a_policys_options_and_defaults_are_those_that_its_own_reader_knows() {
    let ours: Vec<_> =
        options().iter().filter_map(|option| Some((option.path.strip_prefix("policy.")?, option.default?))).collect();
    let bare = |text: &str| text.trim_matches('"').to_owned();
    let theirs: Vec<_> = written::KEYS.iter().map(|(key, default)| (*key, bare(default))).collect();
    assert_eq!(ours.iter().map(|(key, default)| (*key, bare(default))).collect::<Vec<_>>(), theirs);
}

#[test]
fn a_proxy_is_trusted_by_its_address_or_its_network() {
    let proxies = |list: &str| format!("[api]\ntrusted_proxies = {list}\n");
    let config = load(&proxies(r#"["192.0.2.1", "2001:db8::1", "10.0.0.0/8"]"#), &[KEY, SECRET]).unwrap();
    let trusted: Vec<String> = config.api.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(trusted, ["192.0.2.1/32", "2001:db8::1/128", "10.0.0.0/8"]);
    let lines = mistakes(&proxies(r#"["proxy.example", "10.0.0.0/33", 7]"#), &[KEY, SECRET]);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines.iter().all(|line| line.contains("must be an IP address, or a network such as 10.0.0.0/8")),
        "{lines:?}"
    );
}
