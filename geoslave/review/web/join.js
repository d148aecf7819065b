// Uses an invitation. The token stands behind the #, which no server or log ever sees.

import { post } from "./api.js";

const $ = (id) => document.getElementById(id);
const token = window.location.hash.slice(1);

$("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await post("/api/join", { token, name: $("name").value.trim() });
    window.location.replace("/");
  } catch (error) {
    $("said").textContent = error.message;
  }
});
if (!token) $("said").textContent = "This link is not whole: copy all of it, with what stands behind the #.";
$("name").focus();
