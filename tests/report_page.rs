//! `report.html` in a real browser: synchronised videos, keyboard, difference view, phone layout, print.

#[path = "support/browser.rs"]
mod browser;
#[path = "support/program.rs"]
mod program;

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use browser::{Browser, chromium};
use program::Shell;

/// A prompt that would break a page that does not escape it.
const PROMPT: &str = "</script><script>throw 1</script> a 'red' \"circle\" <b>& moving</b> right";

/// The brightest colour value of each lane's canvas: 0 where nothing differs.
const BRIGHTEST: &str = "(() => { const out = {}; \
    for (const lane of document.querySelectorAll('.lane')) { const canvas = lane.querySelector('canvas'); \
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true }); \
    copy.drawImage(canvas, 0, 0); const { data } = copy.getImageData(0, 0, canvas.width, canvas.height); \
    out[lane.dataset.lane] = Math.max(...data.filter((_, i) => i % 4 < 3)); } return out; })()";

/// The frame that each video currently shows.
const FRAMES: &str = "[...document.querySelectorAll('video')].map(v => \
    Math.floor(v.currentTime * Number(document.getElementById('playback').dataset.fps)))";

/// Asserts that nothing failed, nothing was written to the console and nothing but the page was loaded.
#[track_caller]
fn quiet(browser: &mut Browser) {
    // Let pending events arrive.
    browser.value("new Promise(done => setTimeout(done, 100))");
    for method in ["Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"] {
        assert_eq!(browser.events_of(method), Vec::<&Value>::new(), "{method}");
    }
    for request in browser.events_of("Network.requestWillBeSent") {
        let url = request["request"]["url"].as_str().unwrap();
        assert!(
            ["data:", "file:", "blob:null/"].iter().any(|own| url.starts_with(own)),
            "the page asked for {url}"
        );
    }
}

/// Waits until every video shows this frame and the page displays its number.
#[track_caller]
fn shows(browser: &mut Browser, frame: usize) {
    browser.until(&format!("{FRAMES}.every(shown => shown === {frame})"));
    browser.until("[...document.querySelectorAll('video')].every(v => !v.seeking)");
    let said =
        browser.value("document.getElementById('frame').value + ' ' + document.getElementById('at').value");
    assert_eq!(said, format!("{frame} {} of 17", frame + 1));
}

#[test]
fn a_page_of_videos_works_in_a_browser() {
    let Some(program) = chromium() else { return };
    let sh = Shell::new();
    let lanes = "--cache magcache --set max_skips=1 fbcache teacache --json";
    let out = sh.command(format!("compare --steps 9 {lanes}")).args(["--prompt", PROMPT]).output().unwrap();
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    let page = sh.path("magcache-compare/report.html");
    assert!(fs::metadata(&page).unwrap().len() < 5_000_000);
    let mut browser = Browser::start(&program);
    browser.resize(1280, 900);
    browser.open(&page);
    browser.until("[...document.querySelectorAll('video')].every(v => v.readyState >= 3)");
    assert_eq!(browser.value("document.querySelector('.prompt').textContent"), PROMPT);
    assert_eq!(
        browser.value("document.querySelectorAll('.lane').length"),
        found["rows"].as_array().unwrap().len()
    );

    frames_go_in_step(&mut browser);
    the_difference_is_seen(&mut browser, &found);
    reads_on_a_phone(&mut browser);
    reads_on_paper(&mut browser);
    quiet(&mut browser);
}

fn frames_go_in_step(browser: &mut Browser) {
    for (key, frame) in
        [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 16), ("ArrowRight", 16), ("Home", 0)]
    {
        browser.press(key);
        shows(browser, frame);
    }
    browser.press(" ");
    browser.until("[...document.querySelectorAll('video')].every(v => !v.paused && v.currentTime > 0.2)");
    assert_eq!(browser.value("document.getElementById('play').textContent"), "Pause");
    browser.press(" ");
    browser.until("[...document.querySelectorAll('video')].every(v => v.paused)");
    browser.until(&format!("new Set({FRAMES}).size === 1"));
    // Every control can be reached and used without a mouse.
    browser.value("document.getElementById('frame').focus()");
    browser.press("Home");
    shows(browser, 0);
    browser.press("ArrowRight");
    shows(browser, 1);
    browser.press("Tab");
    assert_eq!(browser.value("document.activeElement.id"), "difference");
    let outlined = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.value(outlined), "solid", "the focus can be seen");
    browser.value("document.activeElement.blur()");
}

fn the_difference_is_seen(browser: &mut Browser, found: &Value) {
    browser.press("d");
    browser
        .until("document.getElementById('difference').checked && !document.querySelector('canvas').hidden");
    browser.press("End");
    shows(browser, 16);
    let bright = browser.value(BRIGHTEST);
    for row in found["rows"].as_array().unwrap() {
        // Rows without a PSNR are the dense run and lanes that skipped nothing.
        let lane = row["name"].as_str().unwrap();
        assert_eq!(bright[lane].as_u64().unwrap() > 0, row["psnr"].is_number(), "{lane}: {bright}");
    }
    assert!(bright["magcache"].as_u64() > Some(0) && bright["dense"] == 0, "{bright}");
    browser.value("(() => { const gain = document.getElementById('gain'); gain.value = 1; gain.dispatchEvent(new Event('input')); })()");
    let faint = browser.value(BRIGHTEST);
    assert!(faint["magcache"].as_u64() < bright["magcache"].as_u64(), "{faint} is not fainter than {bright}");
    // Playback advances frame by frame.
    browser.press("Home");
    shows(browser, 0);
    browser.press(" ");
    browser.until("Number(document.getElementById('frame').value) > 2");
    browser.press(" ");
    browser.press("d");
    browser.until("document.querySelector('canvas').hidden");
}

fn reads_on_a_phone(browser: &mut Browser) {
    browser.resize(360, 740);
    browser.until("innerWidth === 360");
    browser.value("document.querySelectorAll('details').forEach(d => { d.open = true; })");
    assert_eq!(browser.value("document.documentElement.scrollWidth"), 360, "the page scrolls sideways");
    let small = browser.value(
        "[...document.querySelectorAll('button, select')].filter(b => b.getBoundingClientRect().height < 44).map(b => b.id)",
    );
    assert_eq!(small, json!([]), "too small for a finger");
    let unnamed = browser.value(
        "[...document.querySelectorAll('input, select')].filter(c => !c.labels.length).map(c => c.id)",
    );
    assert_eq!(unnamed, json!([]));
    let levels = browser.value("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))");
    let levels: Vec<i64> = serde_json::from_value(levels).unwrap();
    assert!(levels[0] == 1 && levels.windows(2).all(|pair| pair[1] - pair[0] <= 1), "{levels:?}");
    browser.value("document.querySelectorAll('details').forEach(d => { d.open = false; })");
}

fn reads_on_paper(browser: &mut Browser) {
    browser.call("Emulation.setEmulatedMedia", json!({ "media": "print" }));
    let visible = |browser: &mut Browser, what: &str| {
        browser.value(&format!(
            "[...document.querySelectorAll('{what}')].filter(e => e.checkVisibility()).length"
        ))
    };
    assert_eq!(visible(browser, "button, input, select, video, canvas, nav"), 0);
    let lanes = browser.value("document.querySelectorAll('.lane').length").as_u64().unwrap();
    assert_eq!(visible(browser, ".stills img"), 2 * lanes, "the first and the last frame of each lane");
    let loaded =
        "[...document.querySelectorAll('.stills img')].every(i => i.complete && i.naturalWidth === 64)";
    browser.until(loaded);
    browser.call("Emulation.setEmulatedMedia", json!({ "media": "" }));
    let pdf = browser.call("Page.printToPDF", json!({ "printBackground": true }));
    let pdf = STANDARD.decode(pdf["data"].as_str().unwrap()).unwrap();
    assert!(pdf.starts_with(b"%PDF") && pdf.len() > 20_000, "{} bytes", pdf.len());
}

#[test]
fn a_page_of_images_works_in_a_browser() {
    let Some(program) = chromium() else { return };
    let sh = Shell::new();
    sh.answer("compare --model tiny-flux --steps 12 magcache --out out");
    let mut browser = Browser::start(&program);
    browser.resize(360, 740);
    browser.open(&sh.path("out/report.html"));
    assert_eq!(browser.value("document.querySelectorAll('video').length"), 0);
    assert_eq!(browser.value("document.documentElement.scrollWidth"), 360);
    browser.press("d");
    browser.until("!document.querySelector('canvas').hidden");
    let bright = browser.value(BRIGHTEST);
    assert!(bright["dense"] == 0 && bright["magcache"].as_u64() > Some(0), "{bright}");
    browser.press(" ");
    quiet(&mut browser);
}
