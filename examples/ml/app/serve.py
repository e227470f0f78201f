"""Serve the trained classifier over HTTP.

GET /healthz says that the process lives, GET /ready that the model is loaded, POST /predict takes
`{"rows": [[64 numbers], ...]}` with the API key of the Secret and answers with digits.
"""

import hmac
import os
import pathlib
import socket

import joblib
import numpy
from fastapi import FastAPI, Header, HTTPException, Response
from pydantic import BaseModel

app = FastAPI(title="digits")
MODEL_FILE = pathlib.Path(os.environ.get("MODEL_DIRECTORY", "/models")) / (
    f"digits-{os.environ['MODEL_VERSION']}.joblib"
)
API_KEY = pathlib.Path(os.environ["API_KEY_FILE"]).read_text().strip()
loaded: dict = {}


class Rows(BaseModel):
    rows: list[list[float]]


@app.on_event("startup")
def load() -> None:
    if MODEL_FILE.exists():
        loaded.update(joblib.load(MODEL_FILE))


@app.get("/healthz")
def healthz() -> dict:
    return {"status": "ok"}


@app.get("/ready")
def ready(response: Response) -> dict:
    if not loaded:
        load()
    if not loaded:
        response.status_code = 503
        return {"ready": False, "waiting for": str(MODEL_FILE)}
    return {"ready": True, "version": loaded["version"]}


@app.post("/predict")
def predict(body: Rows, x_api_key: str = Header(default="")) -> dict:
    if not hmac.compare_digest(x_api_key, API_KEY):
        raise HTTPException(status_code=401, detail="wrong or missing X-API-Key")
    if not loaded:
        raise HTTPException(status_code=503, detail="the model is not loaded yet")
    rows = numpy.asarray(body.rows, dtype=float)
    if rows.ndim != 2 or rows.shape[1] != 64:
        raise HTTPException(status_code=422, detail="every row needs 64 numbers")
    probabilities = loaded["model"].predict_proba(rows)
    return {
        "digits": [int(row.argmax()) for row in probabilities],
        "confidence": [round(float(row.max()), 3) for row in probabilities],
        "version": loaded["version"],
        "greeting": os.environ.get("GREETING", ""),
        "pod": socket.gethostname(),
    }
