from seglens.verbs.runs import _open_privately


def test_the_explorer_s_token_is_on_no_command_line(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    _open_privately("http://127.0.0.1:1/?token=secret&a=b", tmp_path)
    (address,) = opened
    assert address.startswith("file://") and "secret" not in address
    assert "url=http://127.0.0.1:1/?token=secret&amp;a=b" in (tmp_path / "explorer.html").read_text()
