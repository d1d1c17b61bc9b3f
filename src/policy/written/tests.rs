//! The written form, from the outside: mistakes, layers, exemptions.

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::model::{UserId, UserTraits};
use crate::policy::{Buckets, CanaryShare, DeviceField, ExemptionEffect, TraitsNeeded};

fn mistakes(value: &Value) -> Vec<String> {
    policy(value, "policy").unwrap_err().iter().map(ToString::to_string).collect()
}

fn problem(key: &str, value: &Value) -> String {
    mistakes(&json!({ key: value })).join("\n")
}

fn user(uid: &str) -> UserId {
    UserId::parse(uid).unwrap()
}

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

/// The limit, name and source that a user of this `[policy]` and tenant gets.
fn resolved(policies: &TenantPolicies, uid: &str, traits: Option<&UserTraits>) -> (u32, String, Source) {
    let policy = policies.resolve(&user(uid), traits, now()).unwrap().policy;
    let Limit::AtMost(limit) = policy.policy.limit else { panic!("unlimited") };
    (limit.get(), policy.name.as_ref().to_owned(), policy.source)
}

#[test]
fn nothing_written_is_the_default() {
    assert_eq!(*policy(&json!({}), "policy").unwrap().policy, Policy::default());
    assert_eq!(*policy(&Value::Null, "policy").unwrap().policy, Policy::default());
}

#[test]
fn the_table_of_defaults_tells_the_defaults() {
    let unquoted = KEYS.map(|(key, default)| (key.to_owned(), serde_json::from_str(default).unwrap()));
    let written = Value::Object(unquoted.into_iter().collect());
    assert_eq!(*policy(&written, "policy").unwrap().policy, Policy::default());
    assert_eq!(json(&Policy::default()).as_object().unwrap().len(), KEYS.len());
}

#[test]
fn a_policy_read_from_its_own_written_form_is_the_same() {
    let limits = [("mobile".to_owned(), Limit::ONE), ("tv".to_owned(), Limit::Unlimited)].into();
    let odd = Policy {
        mode: Mode::Observe,
        limit: Limit::Unlimited,
        strategy: Strategy::RejectNewest,
        count: Count::Device,
        device_fields: vec![DeviceField::Ip, DeviceField::DeviceType],
        per_device: Limit::at_most(1000).unwrap(),
        buckets: Some(Buckets { by: DeviceField::DeviceType, limits }),
        session_lifetime: std::time::Duration::from_millis(90_250),
        pins_max: 7,
        canary: CanaryShare::from_hundredths(1234).unwrap(),
    };
    for written in [odd, Policy::default()] {
        let again = policy(&json(&written), "policy").unwrap();
        assert_eq!((&*again.policy, again.version), (&written, super::super::PolicyVersion::of(&written)));
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let value = json!({
        "mode": "enforced", "limit": 0, "strategy": 1, "count": "devices", "device_fields": ["os", "city"],
        "per_device": -1, "buckets": { "by": "colour", "limits": { "mobile": 0, "unknown": 1 }, "limit": 1 },
        "session_lifetime": "1 month", "pins_max": 1001, "canary_percent": 100.5, "limitt": 2,
    });
    let found = mistakes(&value);
    let paths: Vec<&str> = found.iter().map(|mistake| mistake.split_once(": ").unwrap().0).collect();
    let keys = ["mode", "limit", "strategy", "count", "device_fields", "per_device", "session_lifetime", "pins_max"];
    for key in keys.iter().chain(&["canary_percent", "limitt", "buckets.by", "buckets.limit"]) {
        assert!(paths.contains(&format!("policy.{key}").as_str()), "{key} in {found:#?}");
    }
    assert!(paths.contains(&"policy.buckets.limits.mobile") && paths.contains(&"policy.buckets.limits.unknown"));
    assert_eq!(paths.len(), 14, "{found:#?}");
}

#[test]
fn a_limit_is_one_to_a_thousand_or_unlimited() {
    let limit = |value: Value| policy(&json!({ "limit": value }), "policy").map(|policy| policy.policy.limit);
    assert_eq!(limit(json!(1000)), Ok(Limit::at_most(1000).unwrap()));
    assert_eq!(limit(json!("2")), Ok(Limit::at_most(2).unwrap()));
    assert_eq!(limit(json!("unlimited")), Ok(Limit::Unlimited));
    let refused = [json!(-1), json!(1001), json!(1.5), json!("none"), json!(true), json!(null), json!("0x1")];
    for value in refused {
        let expected = format!("policy.limit: must be 1 to 1000 or \"unlimited\", not {value}");
        assert_eq!(problem("limit", &value), expected);
    }
    assert_eq!(
        problem("limit", &json!(0)),
        "policy.limit: must be 1 to 1000 or \"unlimited\", not 0 (zero means something else in every product)"
    );
}

#[test]
fn an_unknown_key_is_a_mistake_that_names_the_nearest_known_one() {
    assert_eq!(problem("limmit", &json!(1)), "policy.limmit: is not an option; did you mean \"limit\"?");
    assert_eq!(problem("perdevice", &json!(1)), "policy.perdevice: is not an option; did you mean \"per_device\"?");
    assert!(problem("colour", &json!(1)).starts_with("policy.colour: is not an option; the options are mode, limit"));
    assert!(problem("rules", &json!([])).starts_with("policy.rules: is not an option"), "in one policy alone");
}

#[test]
fn values_from_environment_variables_are_text() {
    let value = json!({
        "limit": "3", "device_fields": "os, browser", "pins_max": "2", "canary_percent": "12.5", "per_device": "4",
    });
    let policy = policy(&value, "policy").unwrap().policy;
    assert_eq!(policy.device_fields, [DeviceField::Os, DeviceField::Browser]);
    assert_eq!((policy.pins_max, policy.canary.hundredths()), (2, 1250));
}

#[test]
fn durations_are_read_in_their_units() {
    for (text, millis) in
        [("30d", 2_592_000_000), ("12h", 43_200_000), ("5m", 300_000), ("90s", 90_000), ("250ms", 250)]
    {
        let policy = policy(&json!({ "session_lifetime": text }), "policy").unwrap().policy;
        assert_eq!(policy.session_lifetime.as_millis(), millis, "{text}");
    }
    for text in ["", "0s", "30", "d", "1.5h", "-1d", "1 d", "3651d", "99999999999999999999d", "1dé"] {
        assert!(problem("session_lifetime", &json!(text)).contains("such as \"30d\""), "{text}");
    }
}

#[test]
fn bucket_names_are_compared_normalised() {
    let of = |limits: Value| policy(&json!({ "buckets": { "by": "os", "limits": limits } }), "policy");
    let buckets = of(json!({ " Mobile ": 2 })).unwrap().policy.buckets.clone().unwrap();
    assert_eq!(buckets.limits, [("mobile".to_owned(), Limit::at_most(2).unwrap())].into());
    assert!(of(json!({ "Mobile": 1, "mobile": 2 })).unwrap_err()[0].problem.contains("twice"));
    assert!(of(json!({})).is_err());
}

#[test]
fn the_first_layer_that_matches_wins_override_rule_tenant_default() {
    let default = json!({ "limit": 1, "count": "device" });
    let tenant = json!({
        "limit": 2,
        "rules": [{ "role": "vip", "limit": 3 }, { "custom_field": "plan", "equals": "pro", "limit": 4 }, { "role": "pro" }],
        "overrides": [{ "uid": "ann", "limit": 5 }],
    });
    let name = TenantId::parse("shop").unwrap();
    let policies = tenant_policies(&default, "policy", Some((&name, &tenant, "tenants.shop.policy"))).unwrap();
    let vip = UserTraits { roles: vec!["pro".to_owned(), "vip".to_owned()], ..UserTraits::default() };
    let pro = UserTraits { custom_fields: [("plan".to_owned(), "pro".to_owned())].into(), ..UserTraits::default() };

    assert_eq!(resolved(&policies, "ann", Some(&vip)), (5, "ann".to_owned(), Source::Override));
    assert_eq!(resolved(&policies, "bob", Some(&vip)), (3, "role vip".to_owned(), Source::Rule));
    assert_eq!(resolved(&policies, "bob", Some(&pro)), (4, "custom field plan = pro".to_owned(), Source::Rule));
    assert_eq!(resolved(&policies, "bob", Some(&UserTraits::default())), (2, "shop".to_owned(), Source::Tenant));
    assert!(policies.all().all(|policy| policy.policy.count == Count::Device), "each starts from the layer below");
    let alone = tenant_policies(&default, "policy", None).unwrap();
    assert_eq!(resolved(&alone, "bob", None), (1, "default".to_owned(), Source::Default));
}

#[test]
fn a_tenant_that_names_no_list_has_the_defaults() {
    let default = json!({ "overrides": [{ "uid": "ann", "mode": "off" }], "rules": [{ "role": "vip", "limit": 9 }] });
    let name = TenantId::parse("shop").unwrap();
    let tenant = json!({ "limit": 2, "rules": [] });
    let policies = tenant_policies(&default, "policy", Some((&name, &tenant, "tenants.shop.policy"))).unwrap();
    assert_eq!(resolved(&policies, "ann", None), (2, "ann".to_owned(), Source::Override));
    assert_eq!(resolved(&policies, "bob", None), (2, "shop".to_owned(), Source::Tenant));
}

#[test]
fn without_the_traits_that_a_rule_looks_at_there_is_no_policy() {
    let default = json!({ "rules": [{ "role": "vip", "limit": 3 }], "overrides": [{ "uid": "ann", "limit": 5 }] });
    let policies = tenant_policies(&default, "policy", None).unwrap();
    assert_eq!(policies.resolve(&user("bob"), None, now()), Err(TraitsNeeded));
    assert!(policies.needs_traits(&user("bob"), now()) && !policies.needs_traits(&user("ann"), now()));
}

#[test]
fn an_exemption_holds_until_it_expires() {
    let why = json!({ "reason": "kiosk", "owner": "ops", "expires": "2026-06-01" });
    let with = |more: Value| {
        let mut exemption = why.as_object().unwrap().clone();
        exemption.extend(more.as_object().unwrap().clone());
        Value::Object(exemption)
    };
    let default = json!({ "exemptions": [
        with(json!({ "role": "vip", "expires": "2026-06-01T12:00:00Z" })),
        with(json!({ "uid": "ann", "effect": "counted" })),
        with(json!({ "email_domain": "@Example.COM" })),
    ] });
    let policies = tenant_policies(&default, "policy", None).unwrap();
    let effect = |uid: &str, traits: Option<&UserTraits>, now: &str| {
        let resolution = policies.resolve(&user(uid), traits, now.parse().unwrap())?;
        Ok::<_, TraitsNeeded>(resolution.exemption.map(|exemption| exemption.effect))
    };
    let vip = UserTraits { roles: vec!["vip".to_owned()], ..UserTraits::default() };
    let mail = UserTraits { email_domains: vec!["example.com".to_owned()], ..UserTraits::default() };

    assert_eq!(effect("bob", Some(&vip), "2026-06-01T11:59:59Z"), Ok(Some(ExemptionEffect::Ignored)));
    assert_eq!(effect("bob", Some(&vip), "2026-06-01T12:00:00Z"), Ok(None));
    assert_eq!(effect("ann", None, "2026-06-01T12:00:00Z"), Ok(Some(ExemptionEffect::Counted)), "the role has expired");
    assert_eq!(effect("ann", None, "2026-06-01T11:59:59Z"), Err(TraitsNeeded), "the role comes first");
    assert_eq!(effect("bob", Some(&mail), "2026-06-01T23:59:59Z"), Ok(Some(ExemptionEffect::Ignored)));
    assert_eq!(effect("bob", None, "2026-06-02T00:00:00Z"), Ok(None), "a day is meant to its end");
}

#[test]
fn mistakes_in_lists_are_reported_with_their_places() {
    let default = json!({
        "rules": [{ "limit": 3 }, { "role": "a", "custom_field": "b" }, { "custom_field": "b" }, { "role": "", "limit": 0 }],
        "overrides": [{ "uid": "a/b" }, {}, { "uid": "ann" }, { "uid": "ann" }],
        "exemptions": [{ "uid": "ann", "expires": "soon", "efect": "ignored" }, "bob"],
    });
    let found = tenant_policies(&default, "policy", None).unwrap_err();
    let paths: Vec<&str> = found.iter().map(|mistake| mistake.path.as_str()).collect();
    let expected = [
        "policy.rules[0]",
        "policy.rules[1]",
        "policy.rules[2].equals",
        "policy.rules[3].limit",
        "policy.rules[3].role",
        "policy.overrides[0].uid",
        "policy.overrides[1].uid",
        "policy.overrides[3].uid",
        "policy.exemptions[0].efect",
        "policy.exemptions[0].reason",
        "policy.exemptions[0].owner",
        "policy.exemptions[0].expires",
        "policy.exemptions[1]",
    ];
    assert!(expected.iter().all(|path| paths.contains(path)), "{found:#?}");
    assert!(found.iter().any(|mistake| mistake.problem.contains("did you mean \"effect\"?")));
}
