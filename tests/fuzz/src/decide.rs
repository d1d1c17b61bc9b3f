//! A line of `soloist decide`.

use serde_json::Value;
use soloist::app::decide_line;
use soloist::policy::{Action, Decision};
use soloist::provider::loginradius::read_sessions;

/// # Panics
/// Where the same facts are decided differently, or a refusal quotes what it was given.
pub fn check(input: &[u8]) {
    let Ok(line) = std::str::from_utf8(input) else { return };
    let decided = decide_line(line);
    assert_eq!(decided, decide_line(line), "the same line decided twice");
    match decided {
        Ok(decision) => decision_is_sound(line, &decision),
        Err(error) => assert!(!quotes_a_row(&error, line), "{error}"),
    }
}

fn decision_is_sound(line: &str, decision: &Decision) {
    let printed = serde_json::to_string(decision).unwrap();
    assert!(!printed.contains('\n'));
    for verdict in &decision.verdicts {
        let ends = verdict.action == Action::Revoke;
        assert_eq!(verdict.reason.is_some() || !verdict.witnesses.is_empty(), ends, "{printed}");
        assert!(!ends || verdict.login_at.is_some(), "{printed}");
    }
    assert!(decision.refused.is_none() || decision.revocations().next().is_none(), "{printed}");

    let backwards = with_rows(line, |rows| rows.reverse());
    assert_eq!(printed, printed_decision(&backwards), "the order of the rows counted");
    let ended: Vec<_> = decision.revocations().map(|verdict| verdict.digest).collect();
    let rest = with_rows(line, |rows| {
        rows.retain(|row| {
            let alone = read_sessions(&Value::Array(vec![row.clone()]));
            alone.sessions.first().is_none_or(|session| !ended.contains(&session.digest))
        });
    });
    let then = decide_line(&rest).unwrap();
    assert_eq!(then.revocations().next(), None, "a second look ended more: {printed}");
}

fn printed_decision(line: &str) -> String {
    serde_json::to_string(&decide_line(line).unwrap()).unwrap()
}

fn with_rows(line: &str, change: impl FnOnce(&mut Vec<Value>)) -> String {
    let mut fields: Value = serde_json::from_str(line).unwrap();
    change(fields["sessions"].as_array_mut().unwrap());
    fields.to_string()
}

/// Rows hold tokens. Whatever is given in a row, and only there, may not come back.
fn quotes_a_row(error: &str, line: &str) -> bool {
    let fields: Value = serde_json::from_str(line).unwrap_or_default();
    let mut texts = Vec::new();
    texts_in(&fields["sessions"], &mut texts);
    texts.into_iter().any(|text| text.contains("canary") && line.matches(text).count() == 1 && error.contains(text))
}

fn texts_in<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(list) => list.iter().for_each(|inner| texts_in(inner, texts)),
        Value::Object(fields) => fields.values().for_each(|inner| texts_in(inner, texts)),
        _ => {}
    }
}
