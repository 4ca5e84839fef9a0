"""A CGMES 2.4.15 zip of two 20 kV buses: an infeed, a line of 5 km, a load. Written by hand, for the converter."""

from __future__ import annotations

import io
import zipfile

LINE = {"r": 0.6, "x": 0.55, "bch": 3.1e-4}
"""Ohm, ohm and siemens of the whole line."""
VM_PU = 1.01

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:cim="http://iec.ch/TC57/2013/CIM-schema-cim16#"
 xmlns:md="http://iec.ch/TC57/61970-552/ModelDescription/1#" xmlns:entsoe="http://entsoe.eu/CIM/SchemaExtension/3/1#">
<md:FullModel rdf:about="urn:uuid:{profile}"><md:Model.profile>{url}</md:Model.profile></md:FullModel>
"""
_URLS = {
    "EQ": "http://entsoe.eu/CIM/EquipmentCore/3/1",
    "SSH": "http://entsoe.eu/CIM/SteadyStateHypothesis/1/1",
    "TP": "http://entsoe.eu/CIM/Topology/4/1",
}


def _object(kind: str, name: str, about: bool = False, **values: object) -> str:
    """An object with its values; those that begin with # are references. Names have _ for the point."""
    fields = "".join(
        f'<cim:{k.replace("_", ".")} rdf:resource="{v}"/>' if str(v).startswith(("#", "http"))
        else f"<cim:{k.replace('_', '.')}>{v}</cim:{k.replace('_', '.')}>"
        for k, v in values.items()
    )  # fmt: skip
    return f'<cim:{kind} rdf:{"about" if about else "ID"}="{"#" if about else ""}{name}">{fields}</cim:{kind}>\n'


def _terminal(name: str, equipment: str, number: int) -> str:
    return _object(
        "Terminal", name, IdentifiedObject_name=name, Terminal_ConductingEquipment=f"#{equipment}",
        ACDCTerminal_sequenceNumber=number,
    )  # fmt: skip


TERMINALS = {
    "_t1": ("_infeed", 1, "_n1"),
    "_t2": ("_line", 1, "_n1"),
    "_t3": ("_line", 2, "_n2"),
    "_t4": ("_load", 1, "_n2"),
}


def profiles() -> dict[str, str]:
    """XML by profile."""
    eq = [
        _object("GeographicalRegion", "_gr", IdentifiedObject_name="gr"),
        _object("SubGeographicalRegion", "_sgr", IdentifiedObject_name="sgr", SubGeographicalRegion_Region="#_gr"),
        _object("BaseVoltage", "_bv", IdentifiedObject_name="20 kV", BaseVoltage_nominalVoltage=20),
        _object("Substation", "_s", IdentifiedObject_name="s", Substation_Region="#_sgr"),
        _object(
            "VoltageLevel", "_vl", IdentifiedObject_name="vl", VoltageLevel_BaseVoltage="#_bv",
            VoltageLevel_Substation="#_s",
        ),
        _object(
            "ExternalNetworkInjection", "_infeed", IdentifiedObject_name="infeed", Equipment_EquipmentContainer="#_vl",
            RegulatingCondEq_RegulatingControl="#_control",
            ExternalNetworkInjection_minP=-100, ExternalNetworkInjection_maxP=100,
            ExternalNetworkInjection_minQ=-100, ExternalNetworkInjection_maxQ=100,
            ExternalNetworkInjection_maxInitialSymShCCurrent=10000,
            ExternalNetworkInjection_minInitialSymShCCurrent=10000,
            ExternalNetworkInjection_maxR1ToX1Ratio=0.1, ExternalNetworkInjection_minR1ToX1Ratio=0.1,
            ExternalNetworkInjection_maxR0ToX0Ratio=0.1, ExternalNetworkInjection_maxZ0ToZ1Ratio=1,
        ),
        _object(
            "ACLineSegment", "_line", IdentifiedObject_name="line", ConductingEquipment_BaseVoltage="#_bv",
            Conductor_length=5, ACLineSegment_r=LINE["r"], ACLineSegment_x=LINE["x"], ACLineSegment_bch=LINE["bch"],
            ACLineSegment_gch=0, ACLineSegment_r0=1, ACLineSegment_x0=1, ACLineSegment_b0ch=0, ACLineSegment_g0ch=0,
            ACLineSegment_shortCircuitEndTemperature=80,
        ),
        _object(
            "RegulatingControl", "_control", IdentifiedObject_name="control", RegulatingControl_Terminal="#_t1",
            RegulatingControl_mode="http://iec.ch/TC57/2013/CIM-schema-cim16#RegulatingControlModeKind.voltage",
        ),
        _object("ConformLoad", "_load", IdentifiedObject_name="load", Equipment_EquipmentContainer="#_vl"),
        *(_terminal(name, equipment, number) for name, (equipment, number, _) in TERMINALS.items()),
    ]  # fmt: skip
    ssh = [
        _object(
            "ExternalNetworkInjection", "_infeed", True, ExternalNetworkInjection_p=0, ExternalNetworkInjection_q=0,
            ExternalNetworkInjection_referencePriority=1, RegulatingCondEq_controlEnabled="true",
        ),
        _object(
            "RegulatingControl", "_control", True, RegulatingControl_discrete="false", RegulatingControl_enabled="true",
            RegulatingControl_targetValue=VM_PU * 20,
        ),
        _object("ConformLoad", "_load", True, EnergyConsumer_p=1.2, EnergyConsumer_q=0.3),
        *(_object("Terminal", name, True, ACDCTerminal_connected="true") for name in TERMINALS),
    ]  # fmt: skip
    nodes = {name: node for name, (_, _, node) in TERMINALS.items()}
    tp = [
        *(
            _object(
                "TopologicalNode", name, IdentifiedObject_name=name, TopologicalNode_BaseVoltage="#_bv",
                TopologicalNode_ConnectivityNodeContainer="#_vl",
            )
            for name in ("_n1", "_n2")
        ),
        *(_object("Terminal", name, True, Terminal_TopologicalNode=f"#{node}") for name, node in nodes.items()),
    ]  # fmt: skip
    texts = {"EQ": eq, "SSH": ssh, "TP": tp}
    return {
        name: _HEAD.format(profile=name.lower(), url=_URLS[name]) + "".join(it) + "</rdf:RDF>\n"
        for name, it in texts.items()
    }


def cgmes_zip() -> bytes:
    """The three profiles as one file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in profiles().items():
            archive.writestr(f"model_{name}.xml", text)
    return data.getvalue()
