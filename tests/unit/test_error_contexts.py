"""Where PostgreSQL says that an error was: in a function of the application's, or in its own work on a row."""

from __future__ import annotations

import pytest

from lapse.store.driver_errors import context_of_function

# As the servers say it: English, and the catalogs of PostgreSQL 15's translations.
SERVERS_OWN = [
    'while updating tuple (0,1) in relation "conversations"',
    'while locking updated version (0,12) of tuple in relation "conversations"',
    'while inserting index tuple (3,4) in relation "uq_conversations_open_session"',
    "beim Aktualisieren von Tupel (0,1) in Relation »conversations«",
    "lors du verrou de la version mise à jour (0, 1) de la ligne de la relation « conversations »",
    "mientras se bloqueaba la tupla (0,1) de la relación «conversations»",
    'durante l\'eliminazione della tupla (0,1) nella relazione "conversations"',
    'リレーション"conversations"のタプル(0,1)の更新中',
    '0,1 튜플(해당 릴레이션 "conversations")을 갱신하는 중에 발생',
    'при изменении кортежа (0,1) в отношении "conversations"',
    'при оновленні кортежу (0,1) в зв\'язку "conversations"',
    '当更新关系"conversations"的元组(0, 1)时',
    'SQL statement "SELECT 1 FROM ONLY "public"."owners" x WHERE "id" = $1 FOR KEY SHARE OF x"',
    'instruction SQL « SELECT 1 FROM ONLY "public"."owners" x WHERE "id" = $1 FOR KEY SHARE OF x »',
    "parallel worker",
    "paralleler Arbeitsprozess",
    "processus parallèle",
    "パラレルワーカー",
    "并行工作者进程",
    "unnamed portal with parameters: $1 = 'não \"quer\" (1,2)', $2 = NULL",
    "extended query with parameters: $1 = '1'",
    "unbenanntes Portal mit Parametern: $1 = '{\"a\": 1}'",
    "portail non nommé avec les paramètres : « $1 = '1' »",
    "パラメータを持つ無名ポータル: $1 = '1'",
    "while executing command on localhost:9701",
]
FUNCTIONS = [
    "PL/pgSQL function touch() line 3 at RAISE",
    'SQL statement "UPDATE conversations SET a = $1 WHERE b = (1,2)"',
    'SQL statement "INSERT INTO other VALUES (1,2),',
    'SQL function "touch" statement 1',
    "PL/pgSQL-Funktion touch(integer) Zeile 3 bei RAISE",
    "SQL-Anweisung »UPDATE other SET a = 1 WHERE ctid = (0,1)«",
    "instruction SQL « UPDATE other SET a = (0,1) »",
    "PL/pgSQL関数touch()の3行目 - RAISE",
    "在RAISE的第3行的PL/pgSQL函数touch()",
    'PL/Python function "touch"',
]


@pytest.mark.parametrize("line", SERVERS_OWN)
def test_what_the_server_says_of_its_own_work_is_no_functions(line: str) -> None:
    assert context_of_function(line) == ""


@pytest.mark.parametrize("line", FUNCTIONS)
def test_what_is_said_of_a_function_is_kept(line: str) -> None:
    assert context_of_function(line) == line
    assert context_of_function(f"{SERVERS_OWN[0]}\n{line}\n{SERVERS_OWN[-4]}") == line
