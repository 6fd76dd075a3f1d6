//! Debian's Chromium, driven through its own chromedriver. The crates for that bring second versions of half a dozen
//! libraries; what is needed of the W3C's WebDriver is a handful of JSON requests.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::demo::{PATIENCE, POLL};
use crate::s3proxy::get;

/// The key that goes to the next control, as WebDriver names it.
const TAB: &str = "\u{e004}";
/// The Tabs of one request.
const TABS: usize = 50;

/// Notes all controls that are seen now, and which of them get the focus from here on.
const BEGIN_TABS: &str = r#"
    const controls = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]";
    const tabs = { all: [...document.querySelectorAll(controls)].filter((one) => one.checkVisibility()), met: new Set(), plain: [] };
    document.addEventListener("focusin", (event) => {
        tabs.met.add(event.target);
        const style = getComputedStyle(event.target);
        if (style.outlineStyle === "none" || style.outlineWidth === "0px") tabs.plain.push(event.target);
    });
    window.tabs = tabs;
    return tabs.all.length;
"#;

/// What was noted; a control that went meanwhile counts for nothing.
const END_TABS: &str = r#"
    const { all, met, plain } = window.tabs;
    const told = (why, one) => why + ": " + one.outerHTML.slice(0, 120);
    const missed = all.filter((one) => one.isConnected && !met.has(one)).map((one) => told("no Tab reaches it", one));
    return [...missed, ...plain.map((one) => told("focus is not seen", one))];
"#;

/// A browser with one window; ended with the test.
#[derive(Debug)]
pub struct Browser {
    client: reqwest::Client,
    /// `http://127.0.0.1:PORT/session/ID`
    session: String,
    /// axe-core, run within pages.
    axe: String,
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser without a window on the screen.
    ///
    /// # Panics
    /// When chromium and chromedriver are not there: `deploy/local/parts/get browser` gets them.
    pub async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("no chromedriver: `deploy/local/parts/get browser` gets it");
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port: u16 = loop {
            let line = lines.next_line().await.expect("output").expect("chromedriver ended");
            if let Some((_, port)) = line.rsplit_once("started successfully on port ") {
                break port.trim_end_matches('.').parse().expect("a port");
            }
        };
        // Else it stands still once the pipe is full.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let profile = tempfile::tempdir().expect("folder");
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().expect("client");
        let data = format!("--user-data-dir={}", profile.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            &data,
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments, "binary": "/usr/bin/chromium" },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let base = format!("http://127.0.0.1:{port}/session");
        let answer = ask(&client, &base, Some(&wanted)).await.expect("a session");
        let id = answer["sessionId"].as_str().expect("an id");
        let axe = get("axe", "script").await.expect("axe-core");
        let axe = std::fs::read_to_string(&axe).unwrap_or_else(|error| panic!("{axe}: {error}"));
        Self { session: format!("{base}/{id}"), client, axe, _driver: driver, _profile: profile }
    }

    async fn post(&self, place: &str, body: &Value) -> Value {
        let answer = ask(&self.client, &format!("{}/{place}", self.session), Some(body)).await;
        answer.unwrap_or_else(|error| panic!("{place} {body}: {error}"))
    }

    pub async fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url })).await;
    }

    /// What a script gives back.
    pub async fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] })).await
    }

    /// The text that a reader sees.
    pub async fn text(&self) -> String {
        self.run("return document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the script gives back true.
    ///
    /// # Panics
    /// When that takes longer than a hang would.
    pub async fn until(&self, what: &str, script: &str) {
        let began = Instant::now();
        while self.run(script).await != true {
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", self.text().await);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Clicks on the first element that fits.
    pub async fn click(&self, selector: &str) {
        let found = self.post("element", &json!({ "using": "css selector", "value": selector })).await;
        let id = found.as_object().and_then(|members| members.values().next()).and_then(Value::as_str);
        let id = id.unwrap_or_else(|| panic!("no {selector}"));
        self.post(&format!("element/{id}/click"), &json!({})).await;
    }

    /// The window's size, in CSS pixels.
    pub async fn resize(&self, width: u32, height: u32) {
        self.post("window/rect", &json!({ "width": width, "height": height })).await;
    }

    /// The reader prefers dark pages, or light ones.
    pub async fn prefer_dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        let command = json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } });
        self.post("goog/cdp/execute", &command).await;
    }

    /// What axe-core finds serious or critical: a rule and the elements that break it.
    pub async fn barriers(&self) -> Vec<String> {
        let is_there = self.run("return typeof axe !== 'undefined'").await;
        if is_there != true {
            self.run(&self.axe).await;
        }
        let script = "const done = arguments[arguments.length - 1];
            axe.run(document, { resultTypes: ['violations'] }).then(
                (found) => done(found.violations.filter((one) => one.impact === 'serious' || one.impact === 'critical')
                    .map((one) => one.id + ': ' + one.nodes.map((node) => node.failureSummary + ' ' + node.html).join(' | '))),
                (error) => done(['axe-core failed: ' + error]));";
        let found = self.post("execute/async", &json!({ "script": script, "args": [] })).await;
        let found = found.as_array().unwrap_or_else(|| panic!("axe-core gave {found}"));
        found.iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Presses Tab through the whole page. Gives back the controls that are seen and were never reached, and those that
    /// did not look any different when they were.
    pub async fn out_of_reach(&self) -> Vec<String> {
        let count = self.run(BEGIN_TABS).await.as_u64().expect("a number");
        // The browser's own bar has a few stops, too; an end of the page is no end of the round.
        let mut left = usize::try_from(count).expect("few") + TABS;
        while left > 0 {
            let press: Vec<Value> = (0..left.min(TABS))
                .flat_map(|_| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": TAB })))
                .collect();
            self.post("actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": press }] }))
                .await;
            left = left.saturating_sub(TABS);
        }
        let missed = self.run(END_TABS).await;
        let missed = missed.as_array().unwrap_or_else(|| panic!("expected a list: {missed}"));
        missed.iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Writes what is seen into a PNG.
    pub async fn shoot(&self, file: &Path) {
        let answer =
            ask(&self.client, &format!("{}/screenshot", self.session), None).await.expect("a picture");
        let picture = STANDARD.decode(answer.as_str().expect("text")).expect("base64");
        std::fs::write(file, picture).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    /// Errors and warnings of the console since this was last asked.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.post("se/log", &json!({ "type": "browser" })).await;
        let all = entries.as_array().cloned().unwrap_or_default();
        all.iter()
            .filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")))
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Addresses that pages asked for since this was last asked.
    pub async fn requests(&self) -> Vec<String> {
        let entries = self.post("se/log", &json!({ "type": "performance" })).await;
        let all = entries.as_array().cloned().unwrap_or_default();
        all.iter()
            .filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok())
            .filter(|entry| entry["message"]["method"] == "Network.requestWillBeSent")
            .filter_map(|entry| entry["message"]["params"]["request"]["url"].as_str().map(str::to_owned))
            .collect()
    }

    /// Ends the browser.
    pub async fn close(self) {
        let _ = tokio::time::timeout(Duration::from_secs(10), self.client.delete(&self.session).send()).await;
    }
}

/// The answer's value. Without a body the request is a GET.
async fn ask(client: &reqwest::Client, url: &str, body: Option<&Value>) -> Result<Value, String> {
    let request = match body {
        Some(body) => client.post(url).header("content-type", "application/json").body(body.to_string()),
        None => client.get(url),
    };
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let bytes = answer.bytes().await.map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    match answer["value"]["error"].as_str() {
        Some(error) => Err(format!("{error}: {}", answer["value"]["message"])),
        None => Ok(answer["value"].clone()),
    }
}
