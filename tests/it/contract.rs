//! The message contract: what `deploy/asyncapi.yaml` tells producers is what the code reads, and nothing can upset it.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use jsonschema::Validator;
use proptest::collection::{hash_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};
use soloist::message::{self, FOREIGN_BYTES_MAX, MEDIA_TYPES, Unreadable, read_foreign};
use soloist::model::{EventId, LoginEvent, Reason, TenantId, UserId};
use soloist::queue::Why;

use crate::support::{login, tenant};

const REASONS: [Reason; 5] =
    [Reason::Login, Reason::Recheck { rung: 3 }, Reason::Sweep, Reason::Enforce, Reason::Redrive];

fn document() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/asyncapi.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Checks against a schema of the document, formats included.
fn validator(document: &Value, schema: &str) -> Validator {
    let root = json!({ "allOf": [{ "$ref": schema }], "components": document["components"] });
    jsonschema::draft7::options().should_validate_formats(true).build(&root).unwrap()
}

fn messages(document: &Value) -> Vec<&Value> {
    document["components"]["messages"].as_object().unwrap().values().collect()
}

fn read(body: &[u8], content_type: Option<&str>) -> Result<LoginEvent, Unreadable> {
    read_foreign(body, content_type, &tenant("acme"), Timestamp::UNIX_EPOCH)
}

#[test]
fn every_example_for_producers_follows_its_schema_and_is_read() {
    let document = document();
    for message in messages(&document) {
        let validator = validator(&document, message["payload"]["$ref"].as_str().unwrap());
        for example in message["examples"].as_array().unwrap() {
            let (name, payload) = (&example["name"], &example["payload"]);
            let problems: Vec<String> = validator.iter_errors(payload).map(|error| error.to_string()).collect();
            assert!(problems.is_empty(), "{name}: {problems:?}");
            let event = read(payload.to_string().as_bytes(), message["contentType"].as_str()).unwrap();
            let uid = [&payload["uid"], &payload["subject"], &payload["Data"]["Uid"]].map(Value::as_str);
            assert_eq!(uid.into_iter().flatten().collect::<Vec<_>>(), [event.user.as_str()]);
        }
    }
}

#[test]
fn what_is_written_follows_the_schema_that_producers_are_given() {
    let validator = validator(&document(), "#/components/schemas/Own");
    for reason in REASONS {
        let written = message::write(&LoginEvent { reason, ..login("ann", "h-1") });
        let written: Value = serde_json::from_slice(&written).unwrap();
        let problems: Vec<String> = validator.iter_errors(&written).map(|error| error.to_string()).collect();
        assert!(problems.is_empty(), "{written}: {problems:?}");
    }
}

#[test]
fn what_a_schema_refuses_in_a_needed_field_is_not_read() {
    let document = document();
    let long = "x".repeat(UserId::BYTES_MAX + 1);
    for (schema, payload) in [
        ("Own", json!({})),
        ("Own", json!({ "uid": "a/b" })),
        ("Own", json!({ "uid": long })),
        ("Own", json!({ "uid": "ann", "tenant": "An Acme" })),
        ("CloudEvent", json!({ "specversion": "0.3", "id": "1", "source": "/", "type": "t", "subject": "ann" })),
        ("CloudEvent", json!({ "specversion": "1.0", "id": "1", "source": "/", "type": "t" })),
        ("LoginRadius", json!({ "HookName": "login", "Data": {} })),
    ] {
        let validator = validator(&document, &format!("#/components/schemas/{schema}"));
        assert!(!validator.is_valid(&payload), "{payload}");
        assert!(read(payload.to_string().as_bytes(), None).is_err(), "{payload}");
    }
}

#[test]
fn the_limits_that_producers_are_told_are_those_of_the_code() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let told = [
        &document["x-limits"]["body_bytes_max"],
        &schemas["Uid"]["maxLength"],
        &schemas["Tenant"]["maxLength"],
        &schemas["EventId"]["maxLength"],
        &schemas["Own"]["properties"]["rung"]["maximum"],
    ];
    let meant = [FOREIGN_BYTES_MAX, UserId::BYTES_MAX, TenantId::BYTES_MAX, EventId::BYTES_MAX, u8::MAX.into()];
    assert_eq!(told.map(Value::as_u64), meant.map(|limit| Some(limit as u64)));
}

#[test]
fn the_media_types_and_the_reasons_that_producers_are_told_are_those_of_the_code() {
    let document = document();
    let types: BTreeSet<_> = messages(&document).iter().filter_map(|message| message["contentType"].as_str()).collect();
    assert_eq!(types, BTreeSet::from(MEDIA_TYPES));

    let reasons = &document["components"]["schemas"]["Own"]["properties"]["reason"]["enum"];
    let reasons: BTreeSet<_> = reasons.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(reasons, REASONS.map(Reason::as_str).into_iter().collect());

    let told: BTreeSet<&str> =
        document["x-dead-letter-reasons"].as_object().unwrap().keys().map(String::as_str).collect();
    let no_json = Unreadable::NotJson { line: 1, column: 1 };
    let problems = [no_json, Unreadable::NoUser(""), Unreadable::TooLarge, Unreadable::MediaType];
    let mut meant: BTreeSet<&str> = problems.iter().map(|problem| Why::from(problem).as_str()).collect();
    meant.insert(Why::UnknownTenant.as_str());
    assert_eq!(told, meant);
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0..4_000_000_000_i64, 0..1_000_000_000_i32)
        .prop_map(|(second, nanosecond)| Timestamp::UNIX_EPOCH + SignedDuration::new(second, nanosecond))
}

fn event() -> impl Strategy<Value = LoginEvent> {
    let reason = (prop::sample::select(REASONS.to_vec()), any::<u8>()).prop_map(|(reason, rung)| match reason {
        Reason::Recheck { .. } => Reason::Recheck { rung },
        other => other,
    });
    let times = (option::of(time()), option::of(time()), option::of(time()));
    ("[a-z0-9_-]{1,64}", "[A-Za-z0-9_-]{1,50}", "[!-~]{1,128}", times, reason).prop_map(
        |(tenant, uid, id, (at, login_at, accepted_at), reason)| LoginEvent {
            tenant: TenantId::parse(&tenant).unwrap(),
            user: UserId::parse(&uid).unwrap(),
            id: EventId::parse(&id).unwrap(),
            at,
            login_at,
            reason,
            accepted_at,
        },
    )
}

/// Any JSON, often with the names that are read.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        prop::sample::select(vec!["ann", "login", "1.0", "recheck", "2026-01-02T03:04:05Z"]).prop_map(Value::from),
    ];
    let name = prop_oneof![
        "\\PC{0,8}",
        prop::sample::select(vec!["tenant", "uid", "id", "at", "login_at", "reason", "rung", "accepted_at"])
            .prop_map(str::to_owned),
        prop::sample::select(vec!["specversion", "subject", "time", "HookName", "HookId", "Data", "Uid", "Time"])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            hash_map(name.clone(), inner, 0..8).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_we_wrote_ourselves_is_read_by_the_same_function(event in event()) {
        let written = message::write(&event);
        prop_assert_eq!(message::read(&written), Ok(event.clone()));
        prop_assert_eq!(read(&written, Some("application/json")), Ok(event));
    }

    #[test]
    fn no_bytes_whatever_upset_the_reader(body in vec(any::<u8>(), 0..200), content_type in option::of("\\PC{0,40}")) {
        prop_assert!(read(&body, content_type.as_deref()).is_err());
        let inside = [b"{\"uid\":\"", body.as_slice(), b"\"}"].concat();
        let _read_or_not = read(&inside, None);
    }

    #[test]
    fn no_json_whatever_upsets_the_reader_and_what_it_reads_can_be_written(body in anything()) {
        if let Ok(event) = read(body.to_string().as_bytes(), None) {
            prop_assert_eq!(message::read(&message::write(&event)), Ok(event));
        }
    }

    #[test]
    fn no_problem_quotes_the_message(canary in "[a-z]{12}") {
        for body in [
            json!({ "uid": format!("{canary}/") }),
            json!({ "uid": "ann", "tenant": canary.to_uppercase() }),
            json!({ "specversion": canary, "subject": "ann" }),
            json!({ "HookName": canary }),
            json!({ canary.clone(): canary }),
            json!([canary]),
        ] {
            let problem = read(body.to_string().as_bytes(), None).unwrap_err().to_string();
            prop_assert!(!problem.to_lowercase().contains(&canary), "{}", problem);
        }
        let problem = read(canary.as_bytes(), Some(&canary)).unwrap_err().to_string();
        prop_assert!(!problem.contains(&canary), "{}", problem);
    }
}
