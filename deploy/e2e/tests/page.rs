//! The page in a real browser, on a running demo. With `MILLRACE_SCREENSHOTS=FOLDER` its pictures are written there.

use std::path::PathBuf;

use millrace_e2e::{Browser, Demo, signal};
use serde_json::Value;

const RAW: &str = "acme.clickstream.raw.events";
/// What would run, leave its place, turn the direction, or end a line, if it were anything but text.
const HOSTILE: &str =
    "<script>document.title='broken'</script>\\\"><img src=x onerror=document.title='broken'>\\u202e\\u0007";

struct Shown {
    demo: Demo,
    browser: Browser,
    origin: String,
    pictures: Option<PathBuf>,
}

impl Shown {
    async fn start() -> Self {
        let flags =
            ["--rate", "300", "--workers", "3", "--cores", "1", "--roll-age", "2s", "--invalid", "0.02"];
        let mut demo = Demo::start(&flags).await;
        demo.until_all_run().await;
        demo.until_all_commit().await;
        let origin = format!("http://127.0.0.1:{}", demo.ports.port(4));
        let pictures = std::env::var_os("MILLRACE_SCREENSHOTS").map(PathBuf::from);
        if let Some(folder) = &pictures {
            std::fs::create_dir_all(folder).expect("a folder for pictures");
        }
        Self { demo, browser: Browser::start().await, origin, pictures }
    }

    /// Opens a page; it must render whole, on the desk and on a phone, and complain of nothing.
    async fn open(&self, name: &str, path: &str, words: &[&str]) {
        for (device, width, height) in [("", 1280, 900), ("-phone", 400, 800)] {
            self.browser.resize(width, height).await;
            self.browser.open(&format!("{}{path}", self.origin)).await;
            let text = self.browser.text().await;
            for words in words {
                assert!(text.contains(words), "{path} does not say {words:?}:\n{text}");
            }
            let is_wider =
                "return document.documentElement.scrollWidth > document.documentElement.clientWidth + 1";
            assert_eq!(self.browser.run(is_wider).await, false, "{path} is wider than {width}");
            for dark in [false, true] {
                self.browser.prefer_dark(dark).await;
                let paper = self.browser.run(PAPER).await.as_f64().expect("a shade");
                assert_eq!(paper < 0.5, dark, "{path} has a paper of {paper}");
                let barriers = self.browser.barriers().await;
                assert!(barriers.is_empty(), "{path} at {width}, dark {dark}: {barriers:#?}");
                let is_shot = name == "cluster" && dark && device.is_empty();
                if let Some(folder) = self.pictures.as_ref().filter(|_| is_shot) {
                    self.browser.shoot(&folder.join(format!("{name}-dark.png"))).await;
                }
            }
            self.browser.prefer_dark(false).await;
            // One picture on the phone tells enough; what is hostile is no sight, and nor are this machine's folders.
            let is_sight = !name.starts_with("hostile") && !matches!(name, "environment" | "log");
            let is_shot = is_sight && (device.is_empty() || name == "cluster");
            if let Some(folder) = self.pictures.as_ref().filter(|_| is_shot) {
                self.browser.shoot(&folder.join(format!("{name}{device}.png"))).await;
            }
        }
        self.browser.resize(1280, 900).await;
        let missed = self.browser.out_of_reach().await;
        assert!(missed.is_empty(), "{path}: {missed:#?}");
        self.is_well(path).await;
    }

    async fn is_well(&self, path: &str) {
        let complaints = self.browser.complaints().await;
        assert!(complaints.is_empty(), "{path}: {complaints:#?}");
        let mut requests = self.browser.requests().await;
        requests.retain(|url| !url.starts_with(&self.origin) && url.starts_with("http"));
        assert!(requests.is_empty(), "{path} asks elsewhere: {requests:#?}");
        let title = self.browser.run("return document.title").await;
        assert_ne!(title, "broken", "{path} ran what a client sent");
        let faults = self.browser.run(FAULTS).await;
        assert_eq!(faults, Value::Array(Vec::new()), "{path}");
    }

    /// Waits until every stage of the way has told its figures, and holds the ledger against itself.
    async fn flow_is_told(&self) {
        loop {
            let flow = self.get("/api/v1/cluster").await["flow"].clone();
            let ledger = &flow["ledger"];
            assert_eq!(ledger["no_records"], 0, "every offset that was passed is found again: {flow}");
            let number = |name: &str| ledger[name].as_i64().expect("a number");
            let found =
                number("enriched") + number("quarantined") + number("client_duplicates") + number("filtered");
            assert_eq!(number("passed"), found, "{flow}");
            let is_told = flow["received_per_second"].as_f64() > Some(0.0)
                && flow["invalid_per_second"].as_f64() > Some(0.0)
                && flow["stages"][1]["freshness_p99_ms"].is_u64()
                && flow["stages"][2]["freshness_p99_ms"].is_u64()
                && number("lake_rows") > 0;
            if is_told {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }

    async fn get(&self, path: &str) -> Value {
        self.demo.get(path).await.unwrap_or_else(|| panic!("no answer at {path}"))
    }
}

/// What no rule of axe-core finds: several or no main headings, ids that stand twice, for parts are replaced by their
/// ids.
const FAULTS: &str = r#"
    const faults = [];
    if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push("twice: " + id);
    return [...new Set(faults)];
"#;

/// How light the paper is, from 0 to 1.
const PAPER: &str = "const shades = getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number);
    return shades.reduce((sum, shade) => sum + shade, 0) / 3 / 255";

#[tokio::test]
async fn every_page_renders_with_what_runs() {
    let shown = Shown::start().await;
    let pipelines = shown.get("/api/v1/pipelines").await;
    let pipeline = pipelines[0]["id"].as_str().expect("id").to_owned();
    let worker = shown.demo.busy_worker().await["id"].as_str().expect("id").to_owned();
    shown.flow_is_told().await;
    let flow = ["Flow", "Received", "Valid", "Invalid", "freshness p99", "Ledger"];
    let cluster = [&["Workers (", "ALIVE", "Partitions of clickstream", "running"][..], &flow].concat();
    shown.open("cluster", "/", &cluster).await;
    let own = [&worker, "Last two minutes", "Partitions (", "Resident", "Commit"];
    shown.open("worker", &format!("/workers/{worker}"), &own).await;
    shown.open("worker-log", &format!("/workers/{worker}/log"), &["registered", "slot"]).await;
    let figures = ["RUNNING", "Records/s", "Lake", "Batch", "Commit", "Flush", "Freshness p99"];
    shown.open("pipeline", &format!("/pipelines/{pipeline}"), &figures).await;
    shown.open("environment", "/environment", &["Kernel", "Cores", "librdkafka", "master"]).await;
    shown.open("log", "/log", &["master starts"]).await;
    shown.open("rebalance", "/rebalance", &["would move"]).await;
    shown.open("topics", "/topics", &[RAW, "source of clickstream", "invalid topic of clickstream"]).await;
    let sizes = shown.get(&format!("/api/v1/topics/{RAW}")).await;
    let of_partitions = sizes["watermarks"].as_array().expect("partitions").iter();
    let sum: u64 = of_partitions.map(|mark| mark["bytes"].as_u64().expect("a size")).sum();
    assert_eq!((sum > 1000, &sizes["bytes"]), (true, &sum.into()), "{sizes}");
    let topic = format!("/topics/{RAW}?partition=0");
    shown
        .open("messages", &topic, &["Consumer groups", "millrace.clickstream", "Messages of partition 0"])
        .await;

    // Its figures are live without a reload.
    shown.browser.run("window.loadedOnce = true; return true").await;
    let offsets_held = "return [...document.querySelectorAll('#part-topic dt')].find((term) => term.innerText === 'Offsets held').parentElement.innerText";
    let before = shown.browser.run(offsets_held).await;
    let rises = format!("{offsets_held} !== {before} && window.loadedOnce === true");
    shown.browser.until("the topic's figures change", &rises).await;

    // Sorting and paging are links, so they work without a script, too.
    shown.browser.open(&format!("{}/", shown.origin)).await;
    shown.browser.click("#part-map th:nth-child(2) a").await;
    let column = "return [...document.querySelectorAll('#part-map tbody tr td:nth-child(2)')].map((cell) => +cell.innerText)";
    let sorted = shown.browser.run(column).await;
    shown.browser.click("#part-map th:nth-child(2) a").await;
    let mut turned = shown.browser.run(column).await;
    turned.as_array_mut().expect("cells").reverse();
    assert_eq!((sorted.as_array().map(Vec::len), &sorted), (Some(6), &turned));
    let first = format!("/topics/{RAW}?partition=0&from=0&limit=5");
    shown.browser.open(&format!("{}{first}", shown.origin)).await;
    let offsets = "return [...document.querySelectorAll('#part-messages tbody tr td:first-child')].map((cell) => +cell.innerText)";
    let page = shown.browser.run(offsets).await;
    assert_eq!(page.as_array().map(Vec::len), Some(5), "{page}");
    shown.browser.click("#part-messages .pager a:last-of-type").await;
    let next = shown.browser.run(offsets).await;
    assert!(next[0].as_i64() > page[4].as_i64(), "{page} then {next}");

    // A message, the file that it went to, and the rows of that.
    let traced = format!("/topics/{RAW}/0/0");
    shown.open("message", &traced, &["Where it went", "clickstream", "package_id"]).await;
    assert_eq!(
        shown.get("/api/v1/log").await[0].as_str().map(str::is_empty),
        Some(false),
        "the API has it, too"
    );
    shown.open("lakes", "/lakes", &["clickstream", "s3://"]).await;
    let lake = format!("/lakes/{pipeline}");
    shown.open("lake", &lake, &["year=", "Files", "read_parquet"]).await;
    let mut folder = shown.get(&format!("/api/v1/lakes/{pipeline}")).await;
    while folder["files"].as_array().is_none_or(Vec::is_empty) {
        let below = folder["folders"][0]["folder"].as_str().expect("a folder").to_owned();
        folder = shown.get(&format!("/api/v1/lakes/{pipeline}?folder={below}")).await;
    }
    let day = folder["folder"].as_str().expect("a day").to_owned();
    shown
        .open("day", &format!("{lake}?folder={day}"), &["Files (", ".parquet", "Offsets of its flush"])
        .await;
    let key = folder["files"][0]["key"].as_str().expect("a file").to_owned();
    shown
        .open("file", &format!("{lake}/file?key={key}"), &["Row groups", "over Arrow Flight", "kafka_offset"])
        .await;
    shown.browser.close().await;
    shown.demo.interrupt().await;
}

#[tokio::test]
async fn what_clients_send_stays_text_everywhere() {
    let shown = Shown::start().await;
    let event = format!(
        r#"{{"id": 1, "type": "click", "package_id": "hostile {HOSTILE}", "event": {{"user_agent": "{HOSTILE}", "ip": "192.168.1.1",
        "customer_id": 12345, "timestamp": "2024-01-01T00:00:00Z", "page": "/{HOSTILE}", "{HOSTILE}": "{HOSTILE}"}}}}"#
    );
    shown.demo.produce_raw(&event);
    // And one that no pipeline can take.
    shown.demo.produce_raw(&format!("{HOSTILE} no JSON"));
    let (mut place, mut bad) = (None, false);
    while place.is_none() || !bad {
        for partition in 0..6 {
            let path = format!("/api/v1/topics/{RAW}/messages?partition={partition}&limit=500");
            let read = shown.get(&path).await;
            let messages = read["messages"].as_array().cloned().unwrap_or_default();
            let found = messages.iter().find(|message| {
                message["value"]["text"].as_str().is_some_and(|text| text.contains("\"hostile "))
            });
            place = place.or(found.map(|message| (partition, message["offset"].as_i64().expect("offset"))));
        }
        let events = shown.get("/api/v1/bad-events").await;
        let groups = events["groups"].as_array().cloned().unwrap_or_default();
        bad = groups.iter().any(|group| group["origin"] == "worker" && group["reason"] == "not_json");
    }
    let (partition, offset) = place.expect("found");
    let page = format!("/topics/{RAW}/{partition}/{offset}");
    shown.open("hostile", &page, &["<script>document.title='broken'</script>"]).await;
    let list = format!("/topics/{RAW}?partition={partition}&from={offset}&limit=3");
    shown.open("hostile-list", &list, &["<script>document.title='broken'</script>"]).await;
    shown.open("bad-events", "/bad-events", &["not_json", "<script>document.title='broken'</script>"]).await;
    // Its row, once its file is there.
    let file = loop {
        let traced = shown.get(&format!("/api/v1/topics/{RAW}/messages/{partition}/{offset}")).await;
        if let Some(key) = traced["went"][0]["file"].as_str() {
            break (traced["went"][0]["pipeline"].as_str().expect("id").to_owned(), key.to_owned());
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    let path = format!("/lakes/{}/file?key={}", file.0, file.1);
    shown.open("hostile-row", &path, &["<script>document.title='broken'</script>"]).await;
    shown.browser.close().await;
    shown.demo.interrupt().await;
}

#[tokio::test]
async fn a_worker_dies_in_front_of_the_reader_and_the_cluster_heals() {
    let mut shown = Shown::start().await;
    shown.browser.open(&format!("{}/", shown.origin)).await;
    shown.browser.run("window.loadedOnce = true; return true").await;
    shown
        .browser
        .until("the page is live", "return document.getElementById('live').innerText === 'Live.'")
        .await;
    let worker = shown.demo.busy_worker().await;
    let (id, pid) = (worker["id"].as_str().expect("id"), worker["pid"].as_u64().expect("pid"));
    signal(u32::try_from(pid).expect("a pid"), libc::SIGKILL);
    let row = format!(
        "return [...document.querySelectorAll('#part-workers tbody tr')].some((row) => row.innerText.includes('{id}') && row.innerText.includes('DEAD'))"
    );
    shown.browser.until("its row turns DEAD", &row).await;
    let card = format!(
        "return [...document.querySelectorAll('#part-failovers tbody tr')].some((row) => row.innerText.includes('{id}') && row.innerText.includes('not verified'))"
    );
    shown.browser.until("its scorecard appears", &card).await;
    assert_eq!(shown.browser.run("return window.loadedOnce === true").await, true, "without a reload");
    shown.demo.until_all_run().await;
    let caught_up = "const cells = document.querySelectorAll('#part-failovers tbody tr:first-child td'); return cells.length > 7 && cells[7].innerText !== '–'";
    shown.browser.until("the others have caught up", caught_up).await;
    shown.is_well("/").await;

    // Verified, in the background, and then the scorecard says so.
    shown.browser.open(&format!("{}/verify", shown.origin)).await;
    shown.browser.click("#part-begin button").await;
    let clean = "return [...document.querySelectorAll('#part-runs h2')].some((heading) => heading.innerText.includes('clean'))";
    shown.browser.until("the verification is clean", clean).await;
    shown.open("verify", "/verify", &["Raw records", "In the lake", "clean"]).await;
    shown.open("healed", "/", &["DEAD", "0, 0 (verified)"]).await;

    // A button: the worker drains, and the page that it stands on says so.
    let other = shown.demo.busy_worker().await["id"].as_str().expect("id").to_owned();
    shown.browser.open(&format!("{}/workers/{other}", shown.origin)).await;
    shown.browser.click("#part-worker .careful summary").await;
    shown.browser.click("#part-worker .careful button").await;
    let drained = "return document.getElementById('part-worker').innerText.includes('DRAINED')";
    shown.browser.until("it is drained", drained).await;
    shown.is_well("/workers").await;
    shown.browser.close().await;
    shown.demo.interrupt().await;
}
