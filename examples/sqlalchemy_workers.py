"""Worker processes of multiprocessing use an engine that their parent made and has open transactions with.

    python sqlalchemy_workers.py postgresql+psycopg2://localhost/test

It needs SQLAlchemy and the driver that the URL names. Without the line forksafe.protect(engine) all workers take the
same connection out of the pool they inherited, and use it at the same time.
"""

import sys
from multiprocessing import get_context

from sqlalchemy import create_engine, text

import forksafe

WORKERS = 3
ORDERS = 12

engine = create_engine(sys.argv[1])
forksafe.protect(engine)

SESSION = text("SELECT pg_backend_pid()")


def add_order(number: int) -> int:
    """In a worker: returns the server's number of the session that added the order."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO orders VALUES (:number)"), {"number": number})
        session: int = connection.execute(SESSION).scalar_one()
        return session


def main() -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS orders"))
        connection.execute(text("CREATE TABLE orders (number int)"))
    with engine.connect() as idle, engine.begin() as connection:
        parents = {each.execute(SESSION).scalar_one() for each in (idle, connection)}
        idle.close()  # from now on it is in the pool, for the next caller
        connection.execute(text("INSERT INTO orders VALUES (0)"))
        with get_context("fork").Pool(WORKERS) as workers:  # forked in the middle of the transaction
            sessions = set(workers.map(add_order, range(1, ORDERS + 1), chunksize=1))
            workers.close()
            workers.join()
    if sessions & parents:
        sys.exit("a worker has used a session of its parent")
    with engine.connect() as connection:
        numbers = connection.execute(text("SELECT number FROM orders ORDER BY number")).scalars().all()
    if numbers != list(range(ORDERS + 1)):
        sys.exit(f"orders are missing: {numbers}")
    print(f"the parent's order and {ORDERS} of its workers are there, in sessions of their own")


if __name__ == "__main__":
    main()
