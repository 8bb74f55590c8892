"""What the agents research: twelve fields of eleven topics, and the words to write about them."""

from __future__ import annotations

from typing import Final, NamedTuple


class Topic(NamedTuple):
    """One subject, and the field it belongs to."""

    title: str
    field: str


_FIELDS: Final = {
    "energy": "perovskite solar cells; sodium-ion batteries; green hydrogen; enhanced geothermal wells; "
    "offshore wind foundations; grid-scale flywheels; heat pumps in old houses; small modular reactors; "
    "tidal turbines; pumped hydro storage; vehicle-to-grid charging",
    "medicine": "mRNA vaccines; phage therapy; sickle cell gene editing; continuous glucose monitors; "
    "antibiotic resistance; AI in radiology; long-acting HIV prevention; malaria vaccines; "
    "xenotransplantation; early sepsis detection; microbiome transplants",
    "computing": "log-structured merge trees; post-quantum signatures; capability security; CRDTs; "
    "WebAssembly runtimes; formal verification of kernels; memory-safe rewrites; RISC-V adoption; "
    "in-network computing; deterministic simulation testing; copy-on-write filesystems",
    "climate": "methane leak detection; direct air capture; glacier melt rates; urban heat islands; "
    "ocean alkalinity; wildfire smoke forecasts; permafrost carbon; low-carbon cement; "
    "contrail avoidance; mangrove restoration; cool roofs",
    "space": "reusable upper stages; lunar water ice; debris removal; exoplanet atmospheres; "
    "radio astronomy on the far side; solar sails; asteroid sample return; satellite laser links; "
    "Mars entry and landing; gravitational waves; nuclear thermal propulsion",
    "food": "precision fermentation; vertical farming; drought-tolerant wheat; cultivated meat; "
    "insect protein; soil carbon farming; food waste sensors; seaweed as feed; "
    "nitrogen-fixing cereals; robotic weeding; coffee in a warmer world",
    "cities": "bus rapid transit; congestion pricing; timber high-rises; car-free centres; "
    "sponge cities; cargo bikes; district cooling; zoning reform; "
    "night trains; curb management; social housing in Vienna",
    "economics": "universal basic income trials; carbon border tariffs; four-day week pilots; "
    "index funds and votes; remittances; minimum wage studies; central bank money; "
    "shadow fleets; chip subsidies; microcredit revisited; land value tax",
    "history": "the Antikythera mechanism; Roman concrete; Bronze Age collapse; the Silk Road; "
    "Linear A; medieval plague cities; Polynesian navigation; the first census; "
    "the Suez Canal; early photography; the great library of Nineveh",
    "biology": "octopus cognition; CRISPR base editors; coral bleaching; ancient DNA; "
    "bird migration; protein structure prediction; tardigrade survival; mycorrhizal networks; "
    "whale song; aging clocks; synthetic minimal cells",
    "materials": "room-temperature superconductors; self-healing concrete; aerogels; "
    "biodegradable plastics; metallic glass; graphene membranes; rare-earth recycling; "
    "battery separators; 3D-printed steel; photonic crystals; spider silk",
    "society": "open-source maintainers; misinformation and elections; library lending; "
    "citizens' assemblies; ageing villages; remote work; school meals; "
    "online identity; volunteer fire brigades; language revival; museum restitution",
}

TOPICS: Final = tuple(
    Topic(title.strip(), field) for field, titles in _FIELDS.items() for title in titles.split(";")
)

ORGANISATIONS: Final = (
    "the Fenwick Institute", "Lumen Data", "the Ardal Observatory", "Northgate University",
    "the Coastal Survey", "Meridian Labs", "the Halden Panel", "Quill & Partners", "the Open Index",
    "the Tarn Foundation", "Civic Metrics", "the Basel Group",
)  # fmt: skip

FINDINGS: Final = (
    "costs fell by {n} % in {y} years", "{n} of 100 projects met their goal",
    "the effect holds in {n} regions",
    "adoption doubled between {a} and {b}", "errors dropped to {n} per thousand",
    "{n} % of those asked would do it again", "the first {n} sites report no failure since {a}",
    "demand outgrew supply by {n} % in {b}", "independent teams repeated the result {n} times",
)  # fmt: skip

CAVEATS: Final = (
    "the sample is small", "the study was paid for by a vendor", "the control group is missing",
    "the method changed halfway", "figures from before {a} are estimates", "only cities were looked at",
)  # fmt: skip
