// Asks Soloist's session API from a server: right after a login, and at each later request of that user.
use serde_json::{Value, json};
use std::{env, error::Error, io, io::Write as _, iter, time::Duration};

async fn ask(request: reqwest::RequestBuilder) -> Result<Value, Box<dyn Error>> {
    for wait_s_max in [3, 0] {
        let request = request.try_clone().ok_or("a streamed body")?.timeout(Duration::from_secs(5)).build_split();
        let Ok(response) = request.0.execute(request.1?).await else { break };
        let wait_s = response.headers().get("retry-after").and_then(|wait| wait.to_str().ok()?.parse().ok());
        match (response.status().as_u16(), wait_s) {
            (200..300, _) => return Ok(response.json().await?),
            (429 | 500.., Some(s)) if s <= wait_s_max => tokio::time::sleep(Duration::from_secs(s)).await,
            (429 | 500.., _) => break,
            (status, _) => return Err(format!("{status} {}", response.text().await?).into()), // A mistake: no outage.
        }
    }
    Ok(json!({ "verdict": "allow", "reason": "unavailable" })) // Fails open; "deny" fails closed: you decide.
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [api, key] = ["API_URL", "APP_KEY"].map(|name| env::var_os(name).unwrap_or_default().display().to_string());
    let mut lines = io::stdin().lines().map_while(Result::ok).peekable();
    let token = lines.peek().cloned().ok_or("no token")?;
    let (http, me) = (reqwest::Client::builder().build()?, format!("{api}/me/sessions"));
    for (path, line) in iter::once("checkpoint").chain(iter::repeat("verdict")).zip(lines) {
        let said = &ask(http.post(format!("{api}/{path}")).bearer_auth(&key).json(&json!({ "token": token }))).await?;
        let [verdict, reason] = ["verdict", "reason"].map(|name| said[name].as_str().unwrap_or_default());
        writeln!(io::stdout(), "{verdict} {reason}")?;
        let ("allow" | "not_known_evicted" | "unknown") = verdict else { return Err("the user may not go on".into()) };
        let listed = &ask(http.get(&me).bearer_auth(&token)).await?;
        for session in listed["sessions"].as_array().into_iter().flatten() {
            let (id, current) = (session["session"].as_str().unwrap_or_default(), session["current"] == true);
            let end = line == format!("end {id}") || (line == "end others" && !current);
            let ended = end && ask(http.delete(format!("{me}/{id}")).bearer_auth(&token)).await?.get("ended").is_some();
            writeln!(io::stdout(), "{id} {} current={current} ended={ended}", session["label"])?;
        }
    }
    Ok(())
}
