// The server, spoken to in JSON. `ApiError.status` is 0 where it could not be reached; `kind` names a refusal of our
// server and is empty where somebody else answered (a proxy, the sign-in page of a network).

export class ApiError extends Error {
  constructor(status, message, retryAfter = 0, kind = "") {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
    this.kind = kind;
  }

  get offline() {
    return this.status === 0;
  }
}

export async function call(method, path, body = undefined, { patience = 15000 } = {}) {
  const request = { method, headers: { Accept: "application/json" }, signal: AbortSignal.timeout(patience) };
  if (body !== undefined) {
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, request);
    if (answer.ok) return answer.status === 204 ? null : await answer.json();
  } catch {
    throw new ApiError(0, "The server cannot be reached just now.");
  }
  const said = (await answer.json().catch(() => null)) ?? {};
  const retryAfter = Number(answer.headers.get("Retry-After")) || 0;
  throw new ApiError(answer.status, said.message || `The server answered ${answer.status}.`, retryAfter, said.kind);
}

export const get = (path) => call("GET", path);
export const post = (path, body = {}) => call("POST", path, body);

export async function pictureUrl(path) {
  let answer;
  try {
    answer = await fetch(path, { signal: AbortSignal.timeout(30000) });
  } catch {
    throw new ApiError(0, "The server cannot be reached just now.");
  }
  if (!answer.ok) throw new ApiError(answer.status, "A picture of this task is missing on the server.");
  return URL.createObjectURL(await answer.blob());
}
