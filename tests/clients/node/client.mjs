// The unmodified OpenAI client against a running installation: `client.mjs <gateway> <key> <scripted provider>`.
// Prints what each call brought as one JSON object.
import OpenAI from "openai";

const [gateway, apiKey, provider] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${gateway}/v1`, apiKey, maxRetries: 0 });
const model = "scripted/writer";
const messages = [{ role: "user", content: "count" }];
const results = {};

async function script(members) {
  await fetch(`${provider}/reset`, { method: "POST", body: "{}" });
  const answer = await fetch(`${provider}/script`, { method: "POST", body: JSON.stringify(members) });
  if (answer.status !== 200) throw new Error(await answer.text());
}

async function run(name, members, call) {
  await script(members);
  try {
    results[name] = await call();
  } catch (error) {
    results[name] = { thrown: error.constructor.name, status: error.status, code: error.code, message: error.message };
  }
}

const tokens = ["One ", "two ", "three."];
const call = { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Tornby"}' } };
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };

await run("models", {}, async () => {
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);
  return { ids, one: (await client.models.retrieve(model)).id };
});

await run("chat", { tokens }, async () => {
  const answer = await client.chat.completions.create({ model, messages, n: 2, stop: ["x"], seed: 1, user: "u" });
  return { texts: answer.choices.map((choice) => choice.message.content), usage: answer.usage };
});

await run("chat_stream", { tokens }, async () => {
  const stream = await client.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } });
  const texts = [];
  let usage = null;
  for await (const chunk of stream) {
    texts.push(chunk.choices[0]?.delta?.content ?? "");
    usage = chunk.usage ?? usage;
  }
  return { text: texts.join(""), usage };
});

await run("chat_stream_helper", { tokens }, async () => {
  const runner = client.chat.completions.stream({ model, messages });
  return { text: await runner.finalContent() };
});

await run("tools", { tool_calls: [call] }, async () => {
  const runner = client.chat.completions.stream({
    model,
    messages,
    tools: [{ type: "function", function: { name: "weather", parameters } }],
  });
  const final = await runner.finalChatCompletion();
  return { calls: final.choices[0].message.tool_calls.map((made) => made.function), reason: final.choices[0].finish_reason };
});

await run("json_mode", { tokens: ['{"a"', ":1}"] }, async () => {
  const answer = await client.chat.completions.create({ model, messages, response_format: { type: "json_object" } });
  return JSON.parse(answer.choices[0].message.content);
});

await run("completions", { tokens }, async () => {
  const answer = await client.completions.create({ model, prompt: ["a", "b"], max_tokens: 5, echo: true });
  const stream = await client.completions.create({ model, prompt: "a", stream: true });
  const parts = [];
  for await (const chunk of stream) parts.push(chunk.choices[0].text);
  return { texts: answer.choices.map((choice) => choice.text), streamed: parts.join("") };
});

await run("embeddings", {}, async () => {
  const floats = await client.embeddings.create({ model: "scripted/embedder", input: ["ab", "abcd"], dimensions: 2 });
  const encoded = await client.embeddings.create({ model: "scripted/embedder", input: "ab", encoding_format: "base64" });
  return { vectors: floats.data.map((entry) => entry.embedding), encoded: typeof encoded.data[0].embedding, usage: floats.usage };
});

await run("moderations", {}, async () => {
  const answer = await client.moderations.create({ input: ["fine weather", "I will kill you"] });
  return { flagged: answer.results.map((result) => result.flagged), threatening: answer.results[1].categories["harassment/threatening"] };
});

await run("responses", { tokens }, async () => {
  const first = await client.responses.create({ model, input: "Hi", instructions: "Count." });
  const second = await client.responses.create({ model, input: "More", previous_response_id: first.id });
  const found = await client.responses.retrieve(second.id);
  const items = [];
  for await (const item of client.responses.inputItems.list(second.id)) items.push(item.content[0].text);
  await client.responses.delete(second.id);
  let gone;
  try {
    await client.responses.retrieve(second.id);
  } catch (error) {
    gone = error.constructor.name;
  }
  return { text: first.output_text, previous: found.previous_response_id === first.id, same: found.output_text, items, gone };
});

await run("responses_stream", { tokens }, async () => {
  const runner = client.responses.stream({ model, input: "Hi" });
  const events = [];
  for await (const event of runner) events.push(event.type);
  return { events, text: (await runner.finalResponse()).output_text };
});

await run("responses_tools", { tool_calls: [call] }, async () => {
  const tools = [{ type: "function", name: "weather", parameters, strict: true }];
  const runner = client.responses.stream({ model, input: "Hi", tools });
  const final = await runner.finalResponse();
  return final.output.map((item) => ({ type: item.type, name: item.name, arguments: item.arguments }));
});

await run("unknown_model", {}, () => client.chat.completions.create({ model: "nothing", messages }));
await run("bad_request", {}, () => client.chat.completions.create({ model, messages: [] }));
await run("provider_down", { status: 500 }, () => client.embeddings.create({ model: "failing-node/embedder", input: "x" }));

process.stdout.write(JSON.stringify(results));
