"""`llambotest`: the self-test, with each engine."""


def test_llambotest_passes_with_the_echo_engine(emu, echo):
    said, status = emu.run(f"llambotest -a unix!{echo.socket}")
    assert status == "", said
    assert "not ok" not in said


def test_llambotest_passes_with_a_real_model(emu, smol):
    said, status = emu.run(f"llambotest -a unix!{smol.socket}")
    assert status == "", said
    assert "not ok" not in said


def test_llambotest_fails_where_there_is_no_bridge(emu):
    said, status = emu.run("llambotest -a unix!/nowhere")
    assert "no bridge answers at /nowhere" in said
    assert status
