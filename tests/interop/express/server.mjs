// A server on Express as it comes, with the middleware that takes a method from a header. Usage: server.mjs PORT
import express from "express";
import methodOverride from "method-override";

const app = express();
app.use(methodOverride("X-HTTP-Method-Override"));
app.get("/", (request, response) => response.send("ready"));
app.get("/settings", (request, response) => response.send("settings"));
app.get("/items/:id/history", (request, response) => response.send("history"));
app.delete("/items/:id", (request, response) => response.send("deleted"));
app.post("/items/:id", (request, response) => response.send("posted"));
app.listen(Number(process.argv[2]), "127.0.0.1");
