"""The common public corpora: source, licence, size, and how each is fetched and read.

Sizes and licences are what the sources state. The patterns of file names leave out a source's own
validation and test files, so that these are not trained on if they are in the same folder.
"""

import dataclasses

from dlms_jax.data.corpora import benchmarks, books, openwebtext, wikipedia
from dlms_jax.data.corpora.public_corpus import PublicCorpus


def _hub_download(name: str, repository: str, pattern: str, revision: str = "") -> tuple[str]:
    """Returns the commands (one) that fetch files of a dataset on the Hub."""
    revision = f" --revision {revision}" if revision else ""
    return (
        f"hf download {repository} --repo-type dataset{revision} --include '{pattern}' "
        f"--local-dir data/{name}",
    )


_ODC_BY = "ODC-By 1.0; Common Crawl's terms of use hold too, and pages keep their owners' rights"

_BOOKS = PublicCorpus(
    name="books",
    title="Project Gutenberg",
    source="https://www.gutenberg.org/help/mirroring.html",
    licence="Most books are in the public domain in the USA, some are under a copyright that they "
    "state; other countries differ. 'Project Gutenberg' is a trademark; its licence covers the "
    "text around a book, which is cut off here",
    size="about 75,000 books; the Hub's copy: 48,284 English books, about 18 GB",
    formats=("*.txt",),
    download=(
        "rsync -av --include '*/' --include 'pg*.txt' --exclude '*' "
        "aleph.gutenberg.org::gutenberg-epub data/books",
    ),
    parse=books.parse,
    hub=("sedthh/gutenberg_english", None, "train"),
    field="TEXT",
    notes="The command fetches one UTF-8 file for each book. The older tree has some books two or "
    "three times (N.txt, N-8.txt, N-0.txt): remove near duplicates there. A file without "
    "Gutenberg's markers is kept whole. The Hub's copy (MIT) was cleaned by its makers.",
)
_FINEWEB = PublicCorpus(
    name="fineweb",
    title="FineWeb",
    source="https://huggingface.co/datasets/HuggingFaceFW/fineweb",
    licence=_ODC_BY,
    size="more than 15 trillion tokens (GPT-2), about 44 TB",
    formats=("*.parquet",),
    download=_hub_download("fineweb", "HuggingFaceFW/fineweb", "data/*"),
    hub=("HuggingFaceFW/fineweb", "default", "train"),
)
_FINEWEB_EDU = PublicCorpus(
    name="fineweb-edu",
    title="FineWeb-Edu",
    source="https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu",
    licence=_ODC_BY,
    size="about 1.3 trillion tokens (GPT-2)",
    formats=("*.parquet",),
    download=_hub_download("fineweb-edu", "HuggingFaceFW/fineweb-edu", "data/*"),
    hub=("HuggingFaceFW/fineweb-edu", "default", "train"),
)
_ENWIK8 = PublicCorpus(
    name="enwik8",
    title="enwik8",
    source="https://mattmahoney.net/dc/textdata.html",
    licence="Wikipedia's text of March 2006: GFDL",
    size="100,000,000 bytes of XML, about 35 MB zipped",
    formats=("enwik8", "enwik8.zip"),
    download=("wget -P data/enwik8 https://mattmahoney.net/dc/enwik8.zip",),
    parse=benchmarks.endless,
    notes="One text, cut into documents of about 16 kB. Published numbers train on the first 90 MB "
    "and test on the last 5 MB; a split by documents, as here, gives other numbers.",
)

_ALL = (
    PublicCorpus(
        name="wiki",
        title="Wikipedia",
        source="https://dumps.wikimedia.org",
        licence="CC BY-SA 4.0, most of it GFDL too (the Hub's copy of 2023: CC BY-SA 3.0, GFDL)",
        size="English: about 7 million articles, 24 GB as .xml.bz2; 20230601.en: 6,672,479 "
        "articles; 20231101.en: about 6.4 million articles, 20 GB of text",
        formats=("*.xml.bz2", "*.xml", "*.xml.gz", "*.xml.zst"),
        download=(
            "wget -P data/wiki "
            "https://dumps.wikimedia.org/enwiki/latest/enwiki-latest-pages-articles.xml.bz2",
        ),
        parse=wikipedia.parse,
        tfds="wikipedia/20230601.en",
        hub=("wikimedia/wikipedia", "20231101.en", "train"),
        notes="From a dump of any language: templates, tables and references are left out, and an "
        "article begins with its title. A core reads about 1 MB of wikitext a second: read the "
        "dump's parts in parallel. The other ways give texts that were cleaned elsewhere.",
    ),
    _BOOKS,
    dataclasses.replace(
        _BOOKS,
        name="gutenberg",
        download=tuple(line.replace("data/books", "data/gutenberg") for line in _BOOKS.download),
    ),
    PublicCorpus(
        name="pg19",
        title="PG-19: Project Gutenberg's books from before 1919",
        source="https://github.com/google-deepmind/pg19",
        licence="Apache 2.0 for the collection; the books are in the public domain in the USA",
        size="28,602 books for training, about 11 GB, 1.97 billion words with those for testing",
        formats=("*.txt",),
        download=(
            "mkdir -p data/pg19",
            "gcloud storage cp 'gs://deepmind-gutenberg/train/*.txt' data/pg19",
        ),
        parse=benchmarks.whole,
        tfds="pg19",
        field="book_text",
    ),
    PublicCorpus(
        name="openwebtext",
        title="OpenWebText",
        source="https://skylion007.github.io/OpenWebTextCorpus",
        licence="CC0 for the packaging only: the pages' texts keep their owners' rights",
        size="8,013,769 pages, about 40 GB (about 9 billion GPT-2 tokens), 13 GB as downloaded",
        formats=(
            "openwebtext*.tar.xz",
            "openwebtext*.tar",
            "urlsf_subset*.tar",
            "urlsf_subset*.xz",
            "train-*.parquet",
        ),
        download=_hub_download(
            "openwebtext",
            "Skylion007/openwebtext",
            "subsets/*.tar",
            revision="8cfd553694d06979cfec29248b200468786f0294",
        ),
        parse=openwebtext.parse,
        hub=("Skylion007/openwebtext", None, "train"),
    ),
    PublicCorpus(
        name="wikitext103",
        title="WikiText-103",
        source="https://huggingface.co/datasets/Salesforce/wikitext",
        licence="CC BY-SA 3.0 and GFDL",
        size="28,475 articles for training, about 103 million words, 540 MB",
        formats=("wiki.train.tokens", "wiki.train.raw"),
        download=(
            "wget -P data https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
            "unzip -d data/wikitext103 data/wikitext-103-raw-v1.zip",
        ),
        parse=benchmarks.wikitext,
        hub=("Salesforce/wikitext", "wikitext-103-raw-v1", "train"),
        regroup=benchmarks.articles,
        notes="Tokenised as published: ` @-@ `, spaces before commas.",
    ),
    PublicCorpus(
        name="c4",
        title="C4 (en)",
        source="https://huggingface.co/datasets/allenai/c4",
        licence=_ODC_BY,
        size="364,868,892 pages for training, 305 GB compressed",
        formats=("c4-train.*.json.gz",),
        download=_hub_download("c4", "allenai/c4", "en/c4-train.*.json.gz"),
        tfds="c4/en",
        hub=("allenai/c4", "en", "train"),
        notes="TensorFlow Datasets builds it from Common Crawl, which needs a Beam cluster.",
    ),
    _FINEWEB,
    dataclasses.replace(
        _FINEWEB,
        name="fineweb-10bt",
        title="FineWeb, the sample of 10 billion tokens",
        size="about 15 million pages, 10 billion tokens (GPT-2)",
        download=_hub_download("fineweb-10bt", "HuggingFaceFW/fineweb", "sample/10BT/*"),
        hub=("HuggingFaceFW/fineweb", "sample-10BT", "train"),
    ),
    _FINEWEB_EDU,
    dataclasses.replace(
        _FINEWEB_EDU,
        name="fineweb-edu-10bt",
        title="FineWeb-Edu, the sample of 10 billion tokens",
        size="about 10 million pages, 10 billion tokens (GPT-2)",
        download=_hub_download("fineweb-edu-10bt", "HuggingFaceFW/fineweb-edu", "sample/10BT/*"),
        hub=("HuggingFaceFW/fineweb-edu", "sample-10BT", "train"),
    ),
    PublicCorpus(
        name="slimpajama",
        title="SlimPajama-627B",
        source="https://huggingface.co/datasets/cerebras/SlimPajama-627B",
        licence="Each part has its source's: Common Crawl's terms, C4 (ODC-By), GitHub (MIT, BSD, "
        "Apache only), arXiv's terms, Wikipedia and StackExchange (CC BY-SA); its books are PG-19 "
        "and Books3, which was withdrawn elsewhere over copyright",
        size="627 billion tokens, 59,166 files, 895 GB compressed",
        formats=("example_train_*.jsonl.zst",),
        download=_hub_download("slimpajama", "cerebras/SlimPajama-627B", "train/*"),
        hub=("cerebras/SlimPajama-627B", None, "train"),
    ),
    PublicCorpus(
        name="redpajama",
        title="RedPajama-Data-1T",
        source="https://huggingface.co/datasets/togethercomputer/RedPajama-Data-1T",
        licence="Each part has its source's: Common Crawl's terms, C4 (ODC-By), GitHub (MIT, BSD, "
        "Apache only), arXiv's terms, Wikipedia and StackExchange (CC BY-SA)",
        size="about 1.2 trillion tokens, 3 TB compressed, 5 TB unpacked",
        formats=("*.jsonl", "*.jsonl.zst"),
        download=(
            "wget -P data https://data.together.xyz/redpajama-data-1T/v1.0.0/urls.txt",
            "wget -x -nH --cut-dirs=2 -P data/redpajama -i data/urls.txt",
        ),
    ),
    PublicCorpus(
        name="dolma",
        title="Dolma v1.7",
        source="https://huggingface.co/datasets/allenai/dolma",
        licence="ODC-By 1.0; parts keep their sources' terms",
        size="about 2.3 trillion tokens, 4.5 TB compressed",
        formats=("*.json.gz",),
        download=(
            "wget -P data https://huggingface.co/datasets/allenai/dolma/resolve/main/urls/v1_7.txt",
            "wget -P data/dolma -i data/v1_7.txt",
        ),
        tfds="dolma",
    ),
    PublicCorpus(
        name="dclm",
        title="DCLM-Baseline",
        source="https://huggingface.co/datasets/mlfoundations/dclm-baseline-1.0",
        licence="CC BY 4.0; pages keep their owners' rights",
        size="about 3 billion pages, 4 trillion tokens",
        formats=("*.jsonl.zst",),
        download=_hub_download("dclm", "mlfoundations/dclm-baseline-1.0", "*.jsonl.zst"),
        hub=("mlfoundations/dclm-baseline-1.0", None, "train"),
    ),
    PublicCorpus(
        name="pile-uncopyrighted",
        title="The Pile without the parts that its makers had no permission for",
        source="https://huggingface.co/datasets/monology/pile-uncopyrighted",
        licence="'other': without Books3, BookCorpus2, OpenSubtitles, YTSubtitles, OpenWebText2; "
        "each other part has its source's",
        size="30 files; its card states no size (the whole Pile: 825 GiB, arXiv 2101.00027)",
        formats=("[0-9][0-9].jsonl.zst",),
        download=_hub_download(
            "pile-uncopyrighted", "monology/pile-uncopyrighted", "train/*.jsonl.zst"
        ),
        hub=("monology/pile-uncopyrighted", None, "train"),
    ),
    PublicCorpus(
        name="tinystories",
        title="TinyStories",
        source="https://huggingface.co/datasets/roneneldan/TinyStories",
        licence="CDLA-Sharing 1.0; written by GPT-3.5 and GPT-4",
        size="about 2.1 million stories, 1.92 GB; version 2 (GPT-4 only): 2.23 GB",
        formats=("TinyStories*-train.txt", "train-*.parquet"),
        download=_hub_download(
            "tinystories", "roneneldan/TinyStories", "TinyStoriesV2-GPT4-train.txt"
        ),
        parse=benchmarks.stories,
        hub=("roneneldan/TinyStories", None, "train"),
        notes="The command fetches version 2, the Hub streams version 1.",
    ),
    PublicCorpus(
        name="lm1b",
        title="One Billion Word benchmark",
        source="https://www.statmt.org/lm-benchmark",
        licence="Apache 2.0 for the benchmark; the news (WMT 2011) keep their owners' rights",
        size="30,301,028 sentences for training, 0.8 billion words, 1.8 GB compressed",
        formats=("news.en-0000[1-9]-of-00100", "news.en-000[1-9][0-9]-of-00100"),  # 0: held out
        download=(
            "wget -P data https://www.statmt.org/lm-benchmark/"
            "1-billion-word-language-modeling-benchmark-r13output.tar.gz",
            "mkdir -p data/lm1b",
            "tar -xzf data/1-billion-word-language-modeling-benchmark-r13output.tar.gz "
            "-C data/lm1b",
        ),
        parse=benchmarks.sentences,
        tfds="lm1b",
        notes="Shuffled sentences: a model learns nothing longer from them.",
    ),
    _ENWIK8,
    dataclasses.replace(
        _ENWIK8,
        name="text8",
        title="text8",
        size="100,000,000 bytes (a-z and space), about 31 MB zipped",
        formats=("text8", "text8.zip"),
        download=("wget -P data/text8 https://mattmahoney.net/dc/text8.zip",),
    ),
)
PUBLIC_CORPORA = {corpus.name: corpus for corpus in _ALL}
