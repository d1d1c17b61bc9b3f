# Asks Soloist's session API from a server: right after a login, and at each later request of that user.
import json, os, sys, time, urllib.error, urllib.request

API_URL, APP_KEY = os.environ["API_URL"], os.environ["APP_KEY"].strip()

def ask(method, path, bearer, body=None):
    headers = {"authorization": f"Bearer {bearer}", "content-type": "application/json"}
    request = urllib.request.Request(API_URL + path, body and json.dumps(body).encode(), headers, method=method)
    for wait_s_max in (3, 0):
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise RuntimeError(f"{error.code} {error.read().decode()}") from None  # A mistake: no outage.
            wait_s = error.headers.get("retry-after", "")
            if not wait_s.isdecimal() or int(wait_s) > wait_s_max:
                break
            time.sleep(int(wait_s))
        except OSError:
            break
    return {"verdict": "allow", "reason": "unavailable"}  # Fails open; "deny" fails closed: you decide.

token = None
for line in map(str.strip, sys.stdin):
    path = "/verdict" if token else "/checkpoint"
    token = token or line
    answer = ask("POST", path, APP_KEY, {"token": token})
    print(answer["verdict"], answer["reason"] or "", flush=True)
    if answer["verdict"] not in ("allow", "not_known_evicted", "unknown"):
        sys.exit(1)
    for session in ask("GET", "/me/sessions", token).get("sessions", []):
        id, current = session["session"], session["current"]
        end = line == f"end {id}" or (line == "end others" and not current)
        ended = end and "ended" in ask("DELETE", f"/me/sessions/{id}", token)
        print(id, json.dumps(session["label"]), f"current={current} ended={ended}".lower(), flush=True)
