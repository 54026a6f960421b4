// A call from the page in Firefox (WebDriver BiDi): node firefox.cjs FIREFOX URL WAV SCREENSHOT LAST_WORD
// Prints what the page showed. The microphone is the recording, by an audio element, since Firefox's own fake one
// is a tone, and its AudioContext stays suspended where there is no sound card.
const { readFileSync } = require("node:fs");
const puppeteer = require("puppeteer-core");

const [executablePath, url, wav, screenshot, last] = process.argv.slice(2);
const extraPrefsFirefox = {
  "media.navigator.permission.disabled": true,
  "media.navigator.streams.fake": true,
  "media.autoplay.default": 0,
  "media.peerconnection.ice.loopback": true,
  "media.peerconnection.ice.obfuscate_host_addresses": false,
  "media.peerconnection.ice.default_address_only": false,
  "network.manage-offline-status": false,
};

function recordingAsMicrophone(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const audio = new Audio(URL.createObjectURL(new Blob([bytes], { type: "audio/wav" })));
  navigator.mediaDevices.getUserMedia = async () => {
    await audio.play();
    return audio.mozCaptureStream();
  };
}

const captions = () => document.getElementById("captions").text();
const status = (wanted) => document.getElementById("status").textContent === wanted;

async function main() {
  const browser = await puppeteer.launch({ browser: "firefox", executablePath, headless: true, extraPrefsFirefox });
  try {
    const page = await browser.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(error.message));
    await page.goto(url);
    await page.evaluate(recordingAsMicrophone, readFileSync(wav).toString("base64"));
    await page.click("#start");
    const live = await page.waitForFunction(status, { timeout: 15000 }, "Live").then(() => true, () => false);
    const said = (word) => document.getElementById("captions").text().toLowerCase().includes(word);
    if (live) await page.waitForFunction(said, { timeout: 30000 }, last).catch(() => {});
    await page.screenshot({ path: screenshot });
    const notices = await page.$eval("#notices", (element) => element.innerText);
    if (live) {
      await page.click("#hangup");
      await page.waitForFunction(status, { timeout: 15000 }, "Call ended");
    }
    console.log(JSON.stringify({ live, captions: await page.evaluate(captions), notices, errors }));
  } finally {
    await browser.close();
  }
}

main();
