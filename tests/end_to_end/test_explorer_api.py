"""Any request that the API's own description allows is answered, and none with a server error (schemathesis)."""

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings

from seglens.explorer.access import Guard
from seglens.explorer.app import create_app

HERE = "http://127.0.0.1:8000"
EXAMPLES = 12
NAMES = {"segmenter": "adult", "cohort": "pediatric", "source": "adult", "target": "pediatric"}
NUMBERS = ("row", "latent", "y", "x")
RANGE = {"minimum": -1, "maximum": 30}


def with_real_names(description):
    """Names that the run has, and numbers that it mostly has: with others every answer would be 404."""
    for path in description["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in NAMES:
                    parameter["schema"] = {"type": "string", "enum": [NAMES[parameter["name"]]]}
                elif parameter["name"] in NUMBERS:
                    parameter["schema"] |= RANGE
                elif parameter["name"] == "latents":
                    parameter["schema"]["items"] |= RANGE
    for wanted in ("WantedSteering", "WantedBaseline"):
        body = description["components"]["schemas"][wanted]["properties"]
        body["cohort"] = {"type": "string", "enum": [NAMES["cohort"]]}
        body["row"] |= RANGE
    latents = description["components"]["schemas"]["WantedEdit"]["properties"]["latents"]
    latents |= {"uniqueItems": True, "items": {"type": "integer"} | RANGE}
    return description


def test_no_request_that_the_description_allows_is_a_server_error(quick_run):
    app = create_app(quick_run.path)
    guard = Guard(app)
    answers = set()
    with TestClient(guard, base_url=HERE, headers={"origin": HERE}) as client:
        client.get(f"/?token={guard.token}")
        description = with_real_names(client.get("/api/openapi.json").json())
        operations = [found.ok() for found in schemathesis.openapi.from_dict(description).get_all_operations()]
        for operation in operations:

            @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy())
            def answered(case):
                kwargs = case.as_transport_kwargs(base_url=HERE)
                answer = client.request(**{**kwargs, "headers": {"origin": HERE}, "cookies": None})
                assert answer.status_code < 500, (case, answer.text)
                answers.add((case.operation.label, answer.status_code // 100))

            answered()
    (quick_run.path / "names.json").unlink(missing_ok=True)
    assert len(operations) >= 14
    assert {label for label, hundreds in answers if hundreds == 2} >= {
        "GET /api/segmenters/{segmenter}/latents/{latent}",
        "GET /api/segmenters/{segmenter}/effects",
        "POST /api/segmenters/{segmenter}/steer",
        "GET /api/segmenters/{segmenter}/slices/{cohort}/{row}/at/{y}/{x}",
    }
