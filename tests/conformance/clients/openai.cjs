// npm openai on whole files, by the /v1 base URL and with a stream: URL WAV; prints what it got as JSON.

const fs = require("node:fs");
const OpenAI = require("openai");

async function main() {
  const [url, path] = process.argv.slice(2);
  const client = new OpenAI({ apiKey: "sesame", baseURL: `${url}/v1`, maxRetries: 0 });
  const create = (more) =>
    client.audio.transcriptions.create({ file: fs.createReadStream(path), model: "gpt-4o-transcribe", ...more });
  const plain = await create({});
  const verbose = await create({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] });
  let deltas = "", done = "";
  for await (const event of await create({ stream: true })) {
    if (event.type === "transcript.text.delta") deltas += event.delta;
    if (event.type === "transcript.text.done") done = event.text;
  }
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  const param = await create({ language: "xx" }).then(() => null, (error) => error.param);
  console.log(JSON.stringify({
    json: plain.text, verbose: verbose.text, deltas, done, words: verbose.words.length, models, named: param,
  }));
}

main();
