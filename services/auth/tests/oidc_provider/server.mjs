// A certified OpenID provider for tests: `node server.mjs '<JSON of settings>'`.
// Says {"issuer": …} on standard output when it listens. Takes commands as lines of JSON on standard input, and answers each with {"ok": true}:
//   {"login": "<account>"}             who signs in from now on (no page asks)
//   {"account": "<id>", "claims": {…}} what the provider says of an account
//   {"rotate": true}                   new signing keys
import { createServer } from "node:http";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createInterface } from "node:readline";
import { Provider } from "oidc-provider";

const settings = JSON.parse(process.argv[2]);
const accounts = new Map();
let current = "";
let handler;

function signingKeys() {
  const kid = randomBytes(6).toString("hex");
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { privateKey: rsa } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return {
    keys: [
      { ...rsa.export({ format: "jwk" }), kid: `rsa-${kid}`, use: "sig", alg: "RS256" },
      { ...privateKey.export({ format: "jwk" }), kid: `ec-${kid}`, use: "sig", alg: "ES256" },
    ],
  };
}

function provider(issuer) {
  const made = new Provider(issuer, {
    clients: settings.clients,
    jwks: signingKeys(),
    pkce: { required: () => true },
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
    conformIdTokenClaims: settings.userinfo ?? true,
    features: { devInteractions: { enabled: false } },
    cookies: { keys: [randomBytes(16).toString("hex")] },
    interactions: { url: (_context, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id, ...accounts.get(id) }) }),
    ttl: { Session: 600, Interaction: 600, Grant: 600, AccessToken: 600, AuthorizationCode: 60, IdToken: 600 },
  });
  const standard = made.callback();
  return async (request, response) => {
    if (!request.url.startsWith("/interaction/")) {
      standard(request, response);
      return;
    }
    const { prompt, params } = await made.interactionDetails(request, response);
    if (prompt.name === "login") {
      const result = current ? { login: { accountId: current } } : { error: "access_denied" };
      await made.interactionFinished(request, response, result);
      return;
    }
    const grant = new made.Grant({ accountId: current, clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    await made.interactionFinished(request, response, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
  };
}

const server = createServer((request, response) => {
  Promise.resolve(handler(request, response)).catch((error) => {
    response.statusCode = 500;
    response.end(String(error));
  });
});

server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  handler = provider(issuer);
  console.log(JSON.stringify({ issuer }));
  createInterface({ input: process.stdin }).on("line", (line) => {
    const command = JSON.parse(line);
    if ("login" in command) current = command.login;
    if ("account" in command) accounts.set(command.account, command.claims);
    if ("rotate" in command) handler = provider(issuer);
    console.log(JSON.stringify({ ok: true }));
  }).on("close", () => process.exit(0));
});
