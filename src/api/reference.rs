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
    table("Body", &content(document, operation.get("requestBody")), page);
    let (problems, answers): (Vec<_>, Vec<_>) =
        members(operation, "/responses").partition(|(status, _)| status.starts_with(['4', '5']));
    for (status, answer) in answers {
        table(&format!("Answer {status}"), &content(document, Some(answer)), page);
    }
    for (status, problem) in &problems {
        let words = text(problem, "/description");
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        write!(page, "<p>Problem details (RFC 9457) with {}{}</p>", escaped(status), escaped(&words)).ok();
    }
}

/// What a request or an answer has in its body: of one that is no object its kind, of none a word that says so.
fn content(document: &Value, of: Option<&Value>) -> Vec<[String; 3]> {
    let Some(of) = of else { return Vec::new() };
    let mut content = members(of, "/content");
    let Some((media_type, content)) = content.next() else {
        return vec![["none".to_owned(), String::new(), text(of, "/description").to_owned()]];
    };
    let schema = content.get("schema");
    let rows = fields(document, schema, "", 0);
    if rows.is_empty() { vec![[media_type.clone(), schema.map(kind).unwrap_or_default(), String::new()]] } else { rows }
}

fn parameter(parameter: &Value) -> [String; 3] {
    let name = format!("{} ({})", text(parameter, "/name"), text(parameter, "/in"));
    let schema = parameter.get("schema").unwrap_or(&Value::Null);
    let is_required = parameter.get("required") == Some(&Value::Bool(true));
    [name, demand(kind(schema), is_required), text(parameter, "/description").to_owned()]
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
    let required = schema.get("required").and_then(Value::as_array);
    let required: Vec<&str> = required.into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in members(schema, "/properties") {
        let last = name.as_str();
        let name = if within.is_empty() { name.clone() } else { format!("{within}.{name}") };
        let words = [text(field, "/description"), text(resolved(document, field), "/description")];
        let words = words.into_iter().find(|words| !words.is_empty()).unwrap_or_default();
        rows.push([name.clone(), demand(kind(resolved(document, field)), required.contains(&last)), words.to_owned()]);
        rows.extend(fields(document, Some(field), &name, depth + 1));
    }
    rows
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let pointed = schema.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix('#'));
    pointed.and_then(|to| document.pointer(to)).unwrap_or(schema)
}

fn demand(kind: String, is_required: bool) -> String {
    if is_required { format!("{kind}, required") } else { kind }
}

/// `string`, `integer or null, 1 to 1000`, `one of allow, deny`
fn kind(schema: &Value) -> String {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return format!("one of {}", words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
    }
    let mut words = match schema.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ if schema.get("oneOf").is_some() => "object or null".to_owned(),
        _ => "any JSON".to_owned(),
    };
    let limits = [
        ("minimum", "at least "),
        ("maximum", "at most "),
        ("minLength", "characters at least "),
        ("maxLength", "characters at most "),
        ("maxItems", "items at most "),
        ("default", "default "),
        ("pattern", "matches "),
        ("format", ""),
    ];
    for (limit, name) in limits.into_iter().filter_map(|(key, name)| Some((schema.get(key)?, name))) {
        let limit = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
        // Writing into a String cannot fail.
        write!(words, ", {name}{limit}").ok();
    }
    words
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
    fn the_page_has_every_route_and_every_field_and_nothing_that_runs() {
        for document in [super::super::v1::document(), super::super::admin::document()] {
            let page = page(&document);
            let described = serde_json::to_value(&document).unwrap();
            let mut ids = std::collections::BTreeSet::new();
            for (path, operations) in members(&described, "/paths") {
                for (method, operation) in operations.as_object().unwrap() {
                    assert!(page.contains(&format!("{} {path}</code></h2>", method.to_uppercase())), "{method} {path}");
                    assert!(ids.insert(text(operation, "/operationId")), "{method} {path} has another one's name");
                    for answer in members(operation, "/responses").map(|(status, _)| status) {
                        let shown = [format!("Answer {answer}<"), format!("(RFC 9457) with {answer}")];
                        assert!(shown.iter().any(|shown| page.contains(shown)), "{method} {path} {answer}");
                    }
                }
            }
            for (name, schema) in members(&described, "/components/schemas") {
                for (field, _) in members(schema, "/properties") {
                    let shown = [format!("<code>{field}</code>"), format!(".{field}</code>")];
                    assert!(shown.iter().any(|shown| page.contains(shown)), "{name}.{field}");
                }
            }
            assert!(!page.contains("<script") && !page.contains("http"));
        }
    }

    #[test]
    fn words_cannot_become_markup() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
