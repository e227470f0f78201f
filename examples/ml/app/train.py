"""Train a classifier of handwritten digits and hand it over as a file.

The data (1797 images of 8 x 8 pixels) ships with scikit-learn. Which estimator is trained, and
under which name the model is saved, comes from the environment, so one image serves every version.
"""

import json
import os
import pathlib
import time

import joblib
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

ESTIMATORS = {
    "logistic": lambda: LogisticRegression(max_iter=2000),
    "svm": lambda: SVC(gamma=0.001, C=10.0, probability=True),
}


def main() -> None:
    version = os.environ["MODEL_VERSION"]
    estimator = os.environ["ESTIMATOR"]
    directory = pathlib.Path(os.environ.get("MODEL_DIRECTORY", "/models"))
    features, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        features, labels, test_size=0.25, random_state=7, stratify=labels
    )
    scaled = estimator == "logistic"
    model = make_pipeline(*([StandardScaler()] if scaled else []), ESTIMATORS[estimator]())
    started = time.perf_counter()
    model.fit(train_x, train_y)
    accuracy = model.score(test_x, test_y)
    # A reader never sees half a model: write beside the target, then rename.
    target = directory / f"digits-{version}.joblib"
    partial = target.with_suffix(".partial")
    joblib.dump({"model": model, "version": version, "accuracy": accuracy}, partial)
    partial.rename(target)
    print(
        json.dumps(
            {
                "version": version,
                "estimator": estimator,
                "rows": len(train_x),
                "accuracy": round(accuracy, 4),
                "seconds": round(time.perf_counter() - started, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
