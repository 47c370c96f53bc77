// The token of a mailed link: read from the fragment, removed from the address at once, sent in the body of a request.
"use strict";

const KINDS = {
  verify: {
    text: "Confirm that this e-mail address is yours.",
    button: "Confirm",
    done: "Thank you: the address is confirmed. You can close this page.",
    send: (token) => post("/auth/email/verify", { token }),
  },
  reset: {
    text: "Choose a new password. All your sessions will end.",
    button: "Set password",
    password: true,
    done: "The new password is set. Sign in with it.",
    send: (token, form) => post("/auth/password/reset", { token, new_password: form.password }),
  },
  invitation: {
    text: "Make your account: give the address that was invited, and choose a password.",
    button: "Make account",
    password: true,
    email: true,
    done: "The account is made. Sign in with it.",
    send: (token, form) => post("/auth/register", { email: form.email, password: form.password, invitation_token: token }),
  },
};

const element = (id) => document.getElementById(id);
const say = (text) => { element("message").textContent = text; };

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    credentials: "omit",
  });
  if (answer.ok) return "";
  const problem = await answer.json().catch(() => ({}));
  return problem.detail || "This did not work; try again later.";
}

function start() {
  const [name, token] = window.location.hash.slice(1).split("=", 2);
  window.history.replaceState(null, "", window.location.pathname);
  const kind = Object.hasOwn(KINDS, name) ? KINDS[name] : undefined;
  if (!kind || !token) {
    say("This link is not complete: copy the whole of it from the mail.");
    return;
  }
  say(kind.text);
  element("button").textContent = kind.button;
  element("password-label").hidden = !kind.password;
  element("email-label").hidden = !kind.email;
  element("form").hidden = false;
  element("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    element("button").disabled = true;
    const problem = await kind
      .send(token, { email: element("email").value, password: element("password").value })
      .catch(() => "The server cannot be reached; try again later.");
    element("button").disabled = false;
    say(problem || kind.done);
    element("form").hidden = !problem;
  });
}

start();
