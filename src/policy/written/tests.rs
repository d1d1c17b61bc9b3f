//! The written form, from the outside.

use super::*;
use crate::model::{UserId, UserTraits};
use serde_json::json;

fn problems(value: &Value) -> Vec<String> {
    policy(value, "policy").unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_written_is_the_default() {
    assert_eq!(*policy(&json!({}), "policy").unwrap().policy, Policy::default());
}
