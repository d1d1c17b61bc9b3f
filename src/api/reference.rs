//! The reference page: an API's description for people. No script, nothing from elsewhere.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::header;
use serde_json::{Map, Value};
use utoipa::openapi::OpenApi;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}\
h2{margin-top:2.5rem;border-top:1px solid #8884;padding-top:1rem}code{font:.9em ui-monospace,monospace}\
table{border-collapse:collapse;margin:.5rem 0}td,th{text-align:left;vertical-align:top;padding:.15rem 1rem .15rem 0}\
nav a{display:block}:root{color-scheme:light dark}";

/// What a browser may do with the page: show it.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// References that are followed into each other; a schema of ours has two or three.
const DEPTH_MAX: usize = 8;

pub(super) async fn answer(State(page): State<Arc<str>>) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, page.to_string())
}

/// The whole page. It is the same as the document: what is not in there is not here.
pub(super) fn page(document: &OpenApi) -> String {
    // A description of constants always serialises.
    let document = serde_json::to_value(document).unwrap_or_default();
    let title = escaped(text(&document, "/info/title"));
    let mut index = String::new();
    let mut body = String::new();
    for (path, operations) in members(&document, "/paths") {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let (name, id) = (format!("{} {path}", method.to_uppercase()), text(operation, "/operationId"));
            let (name, id) = (escaped(&name), escaped(id));
            // Writing into a String cannot fail.
            write!(index, "<a href=\"#{id}\"><code>{name}</code></a>").ok();
            write!(body, "<h2 id=\"{id}\"><code>{name}</code></h2>").ok();
            describe(&document, operation, &mut body);
        }
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p>{}</p><p>As OpenAPI 3.1: \
         <a href=\"openapi.json\">openapi.json</a></p><nav>{index}</nav>{body}</html>",
        escaped(text(&document, "/info/description"))
    )
}

fn describe(document: &Value, operation: &Value, page: &mut String) {
    let words = [text(operation, "/summary"), text(operation, "/description")];
    for words in words.into_iter().filter(|words| !words.is_empty()) {
        write!(page, "<p>{}</p>", escaped(words)).ok();
    }
    let security = operation.get("security").or_else(|| document.get("security"));
    let callers: Vec<&str> = security
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .flat_map(Map::keys)
        .map(String::as_str)
        .collect();
    let callers = if callers.is_empty() { "anybody".to_owned() } else { callers.join(" or ") };
    write!(page, "<p>Asked by: {}</p>", escaped(&callers)).ok();
    let parameters = operation.get("parameters").and_then(Value::as_array);
    let rows: Vec<[String; 3]> = parameters.into_iter().flatten().map(parameter).collect();
    table("Parameters", &rows, page);
    table("Body", &fields(document, operation.pointer("/requestBody/content/application~1json/schema"), "", 0), page);
    for (status, response) in members(operation, "/responses") {
        let rows = fields(document, response.pointer("/content/application~1json/schema"), "", 0);
        if !rows.is_empty() {
            table(&format!("Answer {status}"), &rows, page);
        }
    }
    let others: Vec<&str> = members(operation, "/responses")
        .filter(|(_, r)| r.get("content").is_none())
        .map(|(status, _)| status.as_str())
        .collect();
    if !others.is_empty() {
        write!(page, "<p>Problem details (RFC 9457): {}</p>", escaped(&others.join(", "))).ok();
    }
}

fn parameter(parameter: &Value) -> [String; 3] {
    let name = format!("{} ({})", text(parameter, "/name"), text(parameter, "/in"));
    let schema = parameter.get("schema").unwrap_or(&Value::Null);
    [name, kind(schema), text(parameter, "/description").to_owned()]
}

/// The fields of an object, those of objects within it under its own name.
fn fields(document: &Value, schema: Option<&Value>, within: &str, depth: usize) -> Vec<[String; 3]> {
    let Some(schema) = schema.filter(|_| depth < DEPTH_MAX) else { return Vec::new() };
    let schema = resolved(document, schema);
    let parts = ["allOf", "oneOf", "anyOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    let mut rows: Vec<[String; 3]> = parts.flat_map(|part| fields(document, Some(part), within, depth + 1)).collect();
    if let Some(items) = schema.get("items") {
        rows.extend(fields(document, Some(items), &format!("{within}[]"), depth + 1));
    }
    for (name, field) in members(schema, "/properties") {
        let name = if within.is_empty() { name.clone() } else { format!("{within}.{name}") };
        let words = [text(field, "/description"), text(resolved(document, field), "/description")];
        let words = words.into_iter().find(|words| !words.is_empty()).unwrap_or_default();
        rows.push([name.clone(), kind(resolved(document, field)), words.to_owned()]);
        rows.extend(fields(document, Some(field), &name, depth + 1));
    }
    rows
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let pointed = schema.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix('#'));
    pointed.and_then(|to| document.pointer(to)).unwrap_or(schema)
}

/// `string`, `integer or null`, `one of allow, deny`
fn kind(schema: &Value) -> String {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return format!("one of {}", words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
    }
    match schema.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => String::new(),
    }
}

fn table(title: &str, rows: &[[String; 3]], page: &mut String) {
    if rows.is_empty() {
        return;
    }
    write!(page, "<h3>{}</h3><table>", escaped(title)).ok();
    for [name, kind, words] in rows {
        write!(page, "<tr><td><code>{}</code><td>{}<td>{}", escaped(name), escaped(kind), escaped(words)).ok();
    }
    page.push_str("</table>");
}

fn members<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.pointer(pointer).and_then(Value::as_object).into_iter().flatten()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_route_with_its_fields_and_nothing_that_runs() {
        for (document, field) in
            [(super::super::v1::document(), "would_end"), (super::super::admin::document(), "canary_percent")]
        {
            let page = page(&document);
            let described = serde_json::to_value(&document).unwrap();
            for (path, operations) in members(&described, "/paths") {
                for method in operations.as_object().unwrap().keys() {
                    assert!(
                        page.contains(
                            &escaped(&format!("{} {path}</code></h2>", method.to_uppercase()))
                                .replace("&lt;", "<")
                                .replace("&gt;", ">")
                        ),
                        "{method} {path}"
                    );
                }
            }
            assert!(page.contains(field) && !page.contains("<script") && !page.contains("http"), "{field}");
        }
    }

    #[test]
    fn words_cannot_become_markup() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
