//! A tiny WebDriver client: one headless Chromium, driven through chromedriver, for tests of what a person sees.
//!
//! The monitor page never finishes loading, so the browser is told not to wait for that.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser with an empty profile that talks to nobody but us.
    pub fn start() -> Browser {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", profile.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts: install the packages chromium and chromium-driver");
        let lines = BufReader::new(driver.stdout.take().expect("stdout is piped")).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once("started successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok()
            })
            .expect("chromedriver says its port");
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build();
        let mut browser = Browser {
            driver,
            agent: config.new_agent(),
            session: format!("http://127.0.0.1:{port}"),
            _profile: profile,
        };
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,1400",
        ]
        .map(str::to_owned)
        .into();
        arguments.push(format!("--user-data-dir={}", browser._profile.path().join("profile").display()));
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "pageLoadStrategy": "none",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let id = browser.post("/session", &wanted)["sessionId"].as_str().expect("a session").to_owned();
        browser.session = format!("{}/session/{id}", browser.session);
        browser
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.agent.post(format!("{}{path}", self.session)).header("Content-Type", "application/json");
        let mut answer = answer.send(body.to_string().as_str()).expect("chromedriver answers");
        let text = answer.body_mut().read_to_string().expect("chromedriver answers in text");
        let value: Value = serde_json::from_str(&text).expect("chromedriver answers in JSON");
        assert!(answer.status().is_success(), "{path}: {text}");
        value["value"].clone()
    }

    /// Opens an address.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({"url": url}));
    }

    /// Runs a script and gives what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The name of the present tab.
    pub fn tab(&self) -> String {
        let url = format!("{}/window", self.session);
        let mut answer = self.agent.get(url).call().expect("chromedriver answers");
        let text = answer.body_mut().read_to_string().expect("chromedriver answers in text");
        let value: Value = serde_json::from_str(&text).expect("chromedriver answers in JSON");
        value["value"].as_str().expect("a tab has a name").to_owned()
    }

    /// Opens another tab and switches to it; gives its name.
    pub fn new_tab(&self) -> String {
        let made = self.post("/window/new", &json!({"type": "tab"}));
        let name = made["handle"].as_str().expect("a tab has a name").to_owned();
        self.switch_to(&name);
        name
    }

    /// Continues in another tab.
    pub fn switch_to(&self, tab: &str) {
        self.post("/window", &json!({"handle": tab}));
    }

    /// Closes the present tab; another one must be switched to.
    pub fn close_tab(&self) {
        self.agent.delete(format!("{}/window", self.session)).call().expect("chromedriver answers");
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post("/element", &json!({"using": "css selector", "value": selector}));
        let id = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        format!("/element/{}", id.expect("an element has a name"))
    }

    /// Clicks as a person does: what is hidden or covered cannot be clicked.
    pub fn click(&self, selector: &str) {
        self.post(&format!("{}/click", self.element(selector)), &json!({}));
    }

    /// Presses keys in a field; `\u{E009}` holds Ctrl down, `\u{E007}` is Enter.
    pub fn type_into(&self, selector: &str, keys: &str) {
        self.post(&format!("{}/value", self.element(selector)), &json!({"text": keys}));
    }

    /// The text that a person sees inside the elements that a selector finds, a line for each.
    pub fn text(&self, selector: &str) -> String {
        let script = format!("return [...document.querySelectorAll({selector:?})].map(e => e.innerText).join('\\n')");
        self.run(&script).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text in `selector` passes; gives the text and how long it took.
    pub fn see(&self, what: &str, selector: &str, is_it: impl Fn(&str) -> bool) -> (String, Duration) {
        let started = Instant::now();
        let seen = phalanx::lab::poll::wait_explained(what, Duration::from_secs(30), || {
            let text = self.text(selector);
            if is_it(&text) { Ok(text) } else { Err(text) }
        });
        (seen.unwrap_or_else(|error| panic!("{error}")), started.elapsed())
    }

    /// What the page complained about in its console, but for addresses that did not answer.
    pub fn complaints(&self) -> Vec<String> {
        let lines = self.post("/se/log", &json!({"type": "browser"}));
        let lines = lines.as_array().cloned().unwrap_or_default();
        let text = |line: &Value| line["message"].as_str().unwrap_or_default().to_owned();
        lines.iter().map(text).filter(|line| !line.contains("net::ERR_")).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
